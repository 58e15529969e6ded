import csv
import io
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from rich.console import Console

from distilray.config.glue import EvaluateGlueConfig, TaskConfig
from distilray.errors import InputError
from distilray.finetuning.fine_tune_state import Evaluation
from tests.tiny.search import config
from tuning.records import TrialRecord
from tuning.results import TaskSearch, best_recipe, search_plot, search_summary, trials_csv, trials_table

CHANCE = {"majority": 0.5, "dev_rows": {"dev": 100}}


def record(number, scores, *, status="complete", reason="", steps=10, **values):
    evaluations = [
        Evaluation(index, steps * index, float(index), {"accuracy": score, "score": score}, 0.5, float(index))
        for index, score in enumerate(scores, 1)
    ]
    recipe = values or {"learning_rate": 1e-5 * (number + 1)}
    return TrialRecord(number, recipe, 56, status, reason, evaluations, float(len(scores)))


def search(*records, task="follows", **settings):
    return TaskSearch(task, TaskConfig.model_validate(settings), records, len(records))


def test_the_winner_has_the_best_evaluation_of_all_not_the_best_last_one():
    assert search(record(0, [0.5, 0.6]), record(1, [0.9, 0.2]), record(2, [0.7, 0.8])).winner.number == 1


def test_of_equal_trials_the_one_of_fewer_steps_wins_then_the_first():
    assert search(record(0, [0.5, 0.9]), record(1, [0.9, 0.5]), record(2, [0.9])).winner.number == 1
    assert search(record(0, [0.9], steps=20), record(1, [0.9], steps=5)).winner.number == 1


def test_a_trial_without_an_evaluation_cannot_win():
    assert search(record(0, [], status="failed", reason="out of memory"), record(1, [0.1])).winner.number == 1


def test_a_search_without_any_score_names_the_first_reason():
    failed = [record(number, [], status="failed", reason=f"reason {number}") for number in range(2)]
    with pytest.raises(InputError, match="follows: none of 2 trials has a score; the first: reason 0"):
        _ = search(*failed).winner


def test_the_table_of_trials_has_a_row_for_each_with_its_settings_and_its_end():
    one = search(
        record(0, [0.5, 0.75]), record(1, [], status="failed", reason="its process was killed"), learning_rate=1e-3
    )
    other = search(record(0, [0.25], batch_size=8), task="wnli")
    rows = list(csv.DictReader(io.StringIO(trials_csv([one, other]).decode())))
    assert [(row["task"], row["trial"], row["status"]) for row in rows] == [
        ("follows", "0", "complete"),
        ("follows", "1", "failed"),
        ("wnli", "0", "complete"),
    ]
    assert (rows[0]["learning_rate"], rows[0]["batch_size"], rows[2]["batch_size"]) == ("1e-05", "", "8")
    assert (rows[0]["evaluations"], rows[0]["epochs"], rows[0]["best_score"]) == ("2", "2.000", "0.75")
    assert (rows[1]["best_score"], rows[1]["reason"]) == ("", "its process was killed")


def test_the_plot_is_an_svg_with_a_panel_for_each_task_and_the_same_every_time():
    searches = [search(record(0, [0.5, 0.6]), record(1, [0.4], status="stopped")), search(record(0, [0.5]), task="rte")]
    first, again = search_plot(searches), search_plot(searches)
    assert first == again
    axes = [node.get("id") for node in ElementTree.fromstring(first).iter() if "axes_" in node.get("id", "")]
    assert len(axes) == 2


def test_the_best_recipe_is_one_of_evaluate_glue_with_the_winners_settings(tmp_path):
    recipe = config(tmp_path, tasks=["follows", "wnli"])
    searches = [
        TaskSearch(
            "follows", recipe.task_config("follows"), [record(0, [0.5]), record(1, [0.9], learning_rate=7e-4)], 2
        ),
        TaskSearch("wnli", recipe.task_config("wnli"), [record(0, [0.5], batch_size=4, epochs=5)], 1),
    ]
    summary = {task: {"score": {"median": 0.8125}} for task in ("follows", "wnli")}
    text = best_recipe(recipe, searches, summary).decode()
    found = EvaluateGlueConfig.model_validate(yaml.safe_load(text))
    for each in searches:
        assert found.task_config(each.task) == each.winning_settings
    assert found.task_config("follows").learning_rate == 7e-4
    assert found.task_config("wnli").epochs == 5
    assert (found.model_dir, found.glue_dir, found.seed) == (recipe.model_dir, recipe.glue_dir, recipe.seed)
    assert found.run_dir == f"{tmp_path}/search/best"
    assert (found.scaling.use_gpu, found.scaling.cpus_per_worker) == (False, 1)
    assert "follows: score on dev 0.9000 in the search, 0.8125 as the median of seeds 1" in text


def test_the_figures_tell_the_search_from_the_fresh_seeds():
    found = search_summary(
        search(record(0, [0.5, 0.9]), record(1, [0.6]), seeds=[1, 2, 3]), [0.7, 0.9, 0.6], seed=56, **CHANCE
    )
    assert found["winner"]["score"] == 0.9
    assert found["winner"]["seed"] == 56
    assert found["fresh"]["scores"] == {"1": 0.7, "2": 0.9, "3": 0.6}
    assert (found["fresh"]["median"], round(found["fresh"]["spread"], 6)) == (0.7, 0.3)
    assert found["epochs_trained"] == 3.0
    assert (found["metric"], found["split"]) == ("score", "dev")


def test_the_figures_hold_the_score_of_the_default_settings():
    default, other = record(0, [0.5, 0.7], epochs=3), record(1, [0.9])
    figures = search_summary(search(default, other, seeds=[1]), [0.9], 56, **CHANCE)
    assert figures["default"] == {"values": {"epochs": 3}, "score": 0.7}
    assert search_summary(search(other, seeds=[1]), [0.9], 56, **CHANCE)["default"] is None


@pytest.mark.parametrize(
    ("task", "metric", "median", "majority", "error", "is_above"),
    [
        ("follows", "score", 0.5, 0.5, 0.05, False),
        ("follows", "score", 0.6, 0.5, 0.049, False),  # sqrt(0.6 * 0.4 / 100); two of them above
        ("follows", "accuracy", 0.8, 0.5, 0.04, True),
        ("cola", "score", 0.2, 0.0, 0.098, False),  # sqrt((1 - 0.2^2) / 100)
        ("cola", "matthews", 0.6, 0.0, 0.08, True),
        ("stsb", "score", -0.1, 0.0, 0.0995, False),
    ],
)
def test_a_winner_within_three_standard_errors_of_the_majority_is_known(
    task, metric, median, majority, error, is_above
):
    one = search(
        TrialRecord(0, {}, 56, "complete", "", [Evaluation(1, 10, 1.0, {metric: 0.9}, 0.5, 1.0)], 1.0),
        task=task,
        metric=metric,
        seeds=[1, 2, 3],
    )
    scores = [median - 0.02, median, median + 0.03]
    majority_figures = search_summary(one, scores, 56, majority=majority, dev_rows={"dev": 100})["majority"]
    assert majority_figures == {
        "score": majority,
        "standard_error": pytest.approx(error, abs=1e-3),
        "winner_is_above": is_above,
    }


def test_the_shown_table_names_failed_trials_with_their_reason_and_those_that_never_began():
    found = TaskSearch(
        "follows",
        TaskConfig(),
        [record(0, [0.5]), record(1, [], status="failed", reason="CUDA out of memory")],
        planned=5,
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(trials_table(found))
    text = console.export_text()
    assert "1 complete, 1 failed, 3 not run" in text
    assert "CUDA out of memory" in text
