"""The GLUE demo from the dump to the table, with trials of two steps."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from distilray.runtime.run_folder import describe_input
from jobs import evaluate_glue, run_pipeline

pytestmark = pytest.mark.slow

PIPELINE = str(Path(__file__).parents[2] / "jobs" / "pipelines" / "glue-demo.yaml")
OVERRIDES = [
    "build_next_sentence_task.train=32",
    "build_next_sentence_task.dev=16",
    "build_next_sentence_task.test=16",
    "build_next_sentence_task.max_words=10",
    "search_glue.num_trials=2",
    "search_glue.fine_tuning={epochs: 1, max_length: 32, evaluations_per_epoch: 2, seeds: [1]}",
    "search_glue.space.batch_size.choice=[16]",
]


def run_once():
    """Exit code and what was printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = run_pipeline.main([PIPELINE, *OVERRIDES])
    return code, output.getvalue()


@pytest.fixture(scope="module")
def demo(local_ray, tmp_path_factory):
    """Two runs in one folder; before the second one the task is removed, so that it is built again."""
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.chdir(folder):
        first = run_once()
        runs = folder / "runs" / "glue-demo"
        shutil.rmtree(runs / "follows")
        return runs, first, run_once()


def test_each_stage_prints_one_line_and_the_search_its_trials_and_scores(demo):
    _, (code, output), _ = demo
    assert code == 0, output
    assert re.search(r"^build_corpus: kept 97 of 206 documents", output, re.M)
    assert re.search(r"^build_next_sentence_task: 32 train, 16 dev, 16 test pairs of [\d,]+ usable ones", output, re.M)
    assert re.search(r"^search_glue: 2 trials, follows score 0\.\d+ on dev", output, re.M)
    assert "follows: score of the best trials on dev" in output
    assert re.search(r"follows +│ accuracy", output)


def test_a_task_that_is_built_again_is_the_same_and_is_not_searched_again(demo):
    _, (_, before), (code, output) = demo
    assert code == 0, output
    assert [line.partition(":")[0] for line in output.splitlines() if "skipped" in line] == [
        "build_corpus",
        "search_glue",
    ]
    assert output.partition("runs/glue-demo/search\n")[2] == before.partition("runs/glue-demo/search\n")[2] != ""


def test_the_search_read_the_task_that_was_built(demo):
    runs, _, _ = demo
    inputs = json.loads((runs / "search/manifest.json").read_text())["content"]["inputs"]
    assert inputs["glue_follows"] == describe_input(str(runs / "follows/glue/Follows"))


def test_the_recipe_of_the_winner_is_one_that_can_be_evaluated(demo, capsys):
    runs, _, _ = demo
    assert evaluate_glue.main(["--recipe", str(runs / "search/best.yaml"), "--dry-run"]) == 0
    assert "follows" in capsys.readouterr().out
