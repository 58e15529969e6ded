"""The GLUE demo pipeline on a small text, with very short trials."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from distilray.runtime.run_folder import describe_input, read_manifest
from jobs import evaluate_glue, run_pipeline
from tests.tiny.corpus import sentences_of

pytestmark = pytest.mark.slow

PIPELINE = str(Path(__file__).parents[2] / "jobs" / "pipelines" / "glue-demo.yaml")
SOURCE = {"kind": "text", "name": "own", "path": "text.txt", "document_per": "blank_line"}
OVERRIDES = [
    f"build_corpus.sources=[{json.dumps(SOURCE)}]",
    "build_corpus.filters={min_words: 0, min_sentences: 0, max_list_fraction: 1, max_repeated_fraction: 1}",
    "build_next_sentence_task.train=32",
    "build_next_sentence_task.dev=16",
    "build_next_sentence_task.test=16",
    "build_next_sentence_task.min_words=3",
    "build_next_sentence_task.max_words=12",
    "search_glue.num_trials=2",
    "search_glue.fine_tuning={epochs: 1, max_length: 32, evaluations_per_epoch: 2, seeds: [1]}",
    "search_glue.space.batch_size.choice=[16]",
]


@pytest.fixture(scope="module")
def demo(local_ray, tmp_path_factory):
    """Folder of two runs, and their outputs; the task is removed before the second run, so that it is built again."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "text.txt").write_text("\n\n".join(" ".join(document) for document in sentences_of(80)))
    runs, outputs = folder / "runs" / "glue-demo", []
    with contextlib.chdir(folder):
        for _ in range(2):
            shutil.rmtree(runs / "follows", ignore_errors=True)
            with contextlib.redirect_stdout(io.StringIO()) as output:
                assert run_pipeline.main([PIPELINE, *OVERRIDES]) == 0
            outputs.append(output.getvalue())
    return runs, outputs


def test_each_stage_prints_one_line_and_the_search_prints_its_trials_and_scores(demo):
    _, (output, _) = demo
    assert re.search(r"^build_corpus: kept 80 of 80 documents", output, re.M)
    assert re.search(r"^build_next_sentence_task: 32 train, 16 dev, 16 test pairs of [\d,]+ usable ones", output, re.M)
    assert re.search(r"^search_glue: 2 trials, follows score 0\.\d+ on dev", output, re.M)
    assert "follows: score of the best trials on dev" in output
    assert re.search(r"follows +│ accuracy", output)


def test_building_the_task_again_gives_the_same_task_and_does_not_repeat_the_search(demo):
    _, (first, second) = demo
    skipped = [line.partition(":")[0] for line in second.splitlines() if "skipped" in line]
    assert skipped == ["build_corpus", "search_glue"]
    assert second.partition("runs/glue-demo/search\n")[2] == first.partition("runs/glue-demo/search\n")[2] != ""


def test_the_search_used_the_built_task_and_its_best_recipe_can_be_evaluated(demo, capsys):
    runs, _ = demo
    inputs = read_manifest(str(runs / "search"))["content"]["inputs"]
    assert inputs["glue_follows"] == describe_input(str(runs / "follows/glue/Follows"))
    assert evaluate_glue.main(["--recipe", str(runs / "search/best.yaml"), "--dry-run"]) == 0
    assert "follows" in capsys.readouterr().out
