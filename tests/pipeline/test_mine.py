"""The pipeline for your own text, on a small text and a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distilray.runtime.run_folder import read_manifest
from tests.distilray.corpus.test_survey import DOCUMENTS

pytestmark = pytest.mark.slow

STAGES = ["settings", "corpus", "shards", "teacher", "student", "fill_mask", "report", "service"]
LIMIT_S = 400


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, root: Path, bert_dir: str) -> Path:
    """Folder of the stages of a complete pipeline."""
    folder = tmp_path_factory.mktemp("mine")
    lines = (json.dumps({"no": number, "story": text}) for number, text in enumerate(DOCUMENTS))
    (folder / "stories.jsonl").write_text("\n".join(lines))
    arguments = [f"text={folder}/stories.jsonl", f"model={bert_dir}", "choose_settings.training_minutes=0.01"]
    command = [sys.executable, "-m", "jobs.run_pipeline", str(root / "jobs/pipelines/mine.yaml"), *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'platform'}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "mine"


def test_all_stages_complete(runs: Path) -> None:
    assert all((runs / stage / "manifest.json").is_file() for stage in STAGES)


def test_every_document_is_used(runs: Path) -> None:
    assert read_manifest(str(runs / "corpus"))["content"]["counts"]["documents"] == len(DOCUMENTS)


def test_the_student_has_half_the_layers_and_is_compared_with_its_teacher(runs: Path) -> None:
    counts = read_manifest(str(runs / "student"))["content"]["counts"]
    assert counts["layers"] * 2 == counts["teacher_layers"]
    assert {"teacher", "student"} <= json.loads((runs / "fill_mask" / "scores.json").read_text()).keys()
