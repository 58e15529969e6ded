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


def record(number, scores, *, status="complete", reason="", steps=10, **values):
    evaluations = [
        Evaluation(index, steps * index, float(index), {"accuracy": score, "score": score}, 0.5, float(index))
        for index, score in enumerate(scores, 1)
    ]
    recipe = values or {"learning_rate": 1e-5 * (number + 1)}
    return TrialRecord(number, recipe, 56, status, reason, evaluations, float(len(scores)))


def search(*records, task="follows", planned=None, **settings):
    return TaskSearch(task, TaskConfig.model_validate(settings), records, planned or len(records))


FAILED = record(1, [], status="failed", reason="out of memory")


@pytest.mark.parametrize(
    "records",
    [
        [record(0, [0.5, 0.6]), record(1, [0.9, 0.2]), record(2, [0.7, 0.8])],
        [record(0, [0.5, 0.9]), record(1, [0.9, 0.5]), record(2, [0.9])],
        [record(0, [0.9], steps=20), record(1, [0.9], steps=5)],
        [FAILED, record(1, [0.1])],
    ],
    ids=[
        "best evaluation, not the last one",
        "then the first of equal trials",
        "then fewer steps",
        "only with a score",
    ],
)
def test_the_winner_has_the_best_evaluation(records):
    assert search(*records).winner.number == 1


def test_a_search_without_any_score_reports_the_first_reason():
    failed = [record(number, [], status="failed", reason=f"reason {number}") for number in range(2)]
    with pytest.raises(InputError, match="follows: none of 2 trials has a score; the first: reason 0"):
        _ = search(*failed).winner


def test_the_table_of_trials_has_a_row_for_each_trial():
    searches = [search(record(0, [0.5, 0.75]), FAILED), search(record(0, [0.25], batch_size=8), task="wnli")]
    rows = list(csv.DictReader(io.StringIO(trials_csv(searches).decode())))
    common = {"metric": "score", "reason": "", "status": "complete", "trial": "0", "batch_size": ""}
    result = {"evaluations": "2", "epochs": "2.000", "best_score": "0.75", "seconds": "2.0"}
    assert rows[0] == {**common, **result, "task": "follows", "learning_rate": "1e-05"}
    assert [(row["task"], row["trial"], row["status"]) for row in rows[1:]] == [
        ("follows", "1", "failed"),
        ("wnli", "0", "complete"),
    ]
    assert (rows[1]["best_score"], rows[1]["reason"]) == ("", "out of memory")
    assert (rows[2]["learning_rate"], rows[2]["batch_size"]) == ("", "8")


def test_the_plot_is_a_deterministic_svg_with_a_panel_for_each_task():
    searches = [search(record(0, [0.5, 0.6]), record(1, [0.4], status="stopped")), search(record(0, [0.5]), task="rte")]
    plot = search_plot(searches)
    assert search_plot(searches) == plot
    axes = [node.get("id") for node in ElementTree.fromstring(plot).iter() if "axes_" in node.get("id", "")]
    assert len(axes) == 2


def test_the_best_recipe_is_one_of_evaluate_glue_with_the_settings_of_the_winners(tmp_path):
    recipe = config(tmp_path, tasks=["follows", "wnli"])
    records = {
        "follows": [record(0, [0.5]), record(1, [0.9], learning_rate=7e-4)],
        "wnli": [record(0, [0.5], batch_size=4, epochs=5)],
    }
    searches = [TaskSearch(task, recipe.task_config(task), trials, len(trials)) for task, trials in records.items()]
    summary = {task: {"score": {"median": 0.8125}} for task in records}
    text = best_recipe(recipe, searches, summary).decode()
    best = EvaluateGlueConfig.model_validate(yaml.safe_load(text))
    assert all(best.task_config(each.task) == each.winning_settings for each in searches)
    assert (best.task_config("follows").learning_rate, best.task_config("wnli").epochs) == (7e-4, 5)
    assert (best.model_dir, best.glue_dir, best.seed) == (recipe.model_dir, recipe.glue_dir, recipe.seed)
    assert (best.run_dir, best.tasks, best.precision) == (f"{tmp_path}/search/best", ["follows", "wnli"], "fp32")
    assert (best.scaling.use_gpu, best.scaling.cpus_per_worker) == (False, 1)
    assert "follows: score on dev 0.9000 in the search, 0.8125 as the median of seeds 1" in text


def test_the_summary_separates_the_search_from_the_fresh_seeds():
    searched = search(record(0, [0.5, 0.7], epochs=3), record(1, [0.6, 0.9, 0.8]), seeds=[1, 2, 3], planned=4)
    summary = search_summary(searched, [0.7, 0.9, 0.65], seed=56, majority=0.5, dev_rows={"dev": 100})
    assert summary["winner"] == {"trial": 1, "values": {"learning_rate": 2e-5}, "seed": 56, "score": 0.9}
    fresh = {"scores": {"1": 0.7, "2": 0.9, "3": 0.65}, "median": 0.7, "mean": 0.75, "spread": 0.25}
    assert summary["fresh"] == {name: pytest.approx(value) for name, value in fresh.items()}
    assert summary["default"] == {"values": {"epochs": 3}, "score": 0.7}
    assert summary["trials"] == {"complete": 2, "not run": 2}
    assert (summary["epochs_trained"], summary["metric"], summary["split"]) == (5.0, "score", "dev")
    without_default = search(record(1, [0.9]), seeds=[1])
    assert search_summary(without_default, [0.9], 56, majority=0.5, dev_rows={"dev": 100})["default"] is None


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
def test_a_winner_is_above_the_majority_from_three_standard_errors(task, metric, median, majority, error, is_above):
    winner = TrialRecord(0, {}, 56, "complete", "", [Evaluation(1, 10, 1.0, {metric: 0.9}, 0.5, 1.0)], 1.0)
    searched, scores = search(winner, task=task, metric=metric, seeds=[1, 2, 3]), [median - 0.02, median, median + 0.03]
    summary = search_summary(searched, scores, 56, majority=majority, dev_rows={"dev": 100})["majority"]
    assert (summary["score"], summary["winner_is_above"]) == (majority, is_above)
    assert summary["standard_error"] == pytest.approx(error, abs=1e-3)


def test_the_shown_table_contains_the_best_trials_and_the_failed_ones_with_their_reason():
    console = Console(width=200, record=True, file=io.StringIO())
    trials = [record(number, [0.5 + number / 100]) for number in range(2, 14)]
    console.print(trials_table(search(record(0, [0.5]), FAILED, *trials, planned=17)))
    text = console.export_text()
    assert "13 complete, 1 failed, 3 not run" in " ".join(text.split())
    assert "failed: out of memory" in text
    shown = [line.split()[1] for line in text.splitlines() if "0.6" in line or "0.5" in line]
    assert shown == [str(number) for number in range(13, 3, -1)]
