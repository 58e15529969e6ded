"""The pipeline for your own text, on a small text and a tiny model.

It runs in this process. The quickstart (test_quickstart.py) runs the same stages with Ray, and also `check_service`.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from distilray.runtime.run_folder import read_manifest
from jobs import run_pipeline
from tests.distilray.corpus.test_survey import DOCUMENTS
from tests.golden.ray_in_process import ray_in_process

pytestmark = pytest.mark.slow

STAGES = ["settings", "corpus", "shards", "teacher", "student", "fill_mask", "report"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, root: Path, bert_dir: str) -> Iterator[Path]:
    """Folder of the stages of a complete pipeline."""
    folder = tmp_path_factory.mktemp("mine")
    lines = (json.dumps({"no": number, "story": text}) for number, text in enumerate(DOCUMENTS))
    (folder / "stories.jsonl").write_text("\n".join(lines))
    # The model is so small that 0.01 minutes of training would still be hundreds of steps.
    steps = ["choose_settings.training_minutes=0.01", "train_teacher.max_steps=3", "distill.max_steps=3"]
    arguments = [f"text={folder}/stories.jsonl", f"model={bert_dir}"]
    with contextlib.chdir(folder), ray_in_process(cpus=os.cpu_count() or 1):
        pipeline = str(root / "jobs/pipelines/mine.yaml")
        assert run_pipeline.main([pipeline, *arguments, *steps, "--skip", "check_service"]) == 0
        yield folder / "runs" / "mine"


def test_all_stages_complete(runs: Path) -> None:
    assert all((runs / stage / "manifest.json").is_file() for stage in STAGES)


def test_every_document_is_used(runs: Path) -> None:
    assert read_manifest(str(runs / "corpus"))["content"]["counts"]["documents"] == len(DOCUMENTS)


def test_the_student_has_half_the_layers_and_is_compared_with_its_teacher(runs: Path) -> None:
    counts = read_manifest(str(runs / "student"))["content"]["counts"]
    assert counts["layers"] * 2 == counts["teacher_layers"]
    assert {"teacher", "student"} <= json.loads((runs / "fill_mask" / "scores.json").read_text()).keys()
