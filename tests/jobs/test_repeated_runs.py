"""Runs with equal inputs have equal content, and a complete run is not repeated."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.commands import content_hash, run_job

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPES: dict[str, dict[str, Any]] = {
    "train_tokenizer": {"corpus_dir": "CORPUS", "vocabulary_size": 300},
    "evaluate_fill_mask": {
        "shards_dir": "SHARDS",
        "teacher_dir": "MODEL",
        "student_dir": "MODEL",
        "max_examples": 5,
        "latency_examples": 2,
    },
    "evaluate_bias": {"models": {"teacher": "MODEL"}},
    "measure_efficiency": {
        "models": [{"name": "teacher", "model_dir": "MODEL"}],
        "text_path": "TEXT",
        "rounds": 1,
        "threads": 1,
        "max_length": 16,
    },
    "export_model": {"model_dir": "MODEL", "shards_dir": "SHARDS", "variants": ["bf16"], "gate": {"min_agreement": 0}},
}


@pytest.mark.parametrize("job", RECIPES)
def test_equal_runs_have_equal_content_and_a_complete_run_is_skipped_and_shown_again(
    job: str, corpus_dir: str, shards_dir: str, teacher_dir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("paris is the capital of france.\na cat\nthe old city\n")
    recipe = json.dumps(RECIPES[job])
    for name, value in {"CORPUS": corpus_dir, "SHARDS": shards_dir, "MODEL": teacher_dir, "TEXT": str(text)}.items():
        recipe = recipe.replace(name, value)
    outputs = []
    for name in ("first", "second", "first"):
        assert run_job(job, tmp_path / name / "run", **json.loads(recipe)) == 0
        outputs.append(capsys.readouterr().out.partition("\n"))
    assert content_hash(tmp_path / "first/run") == content_hash(tmp_path / "second/run")
    assert ["skipped)" in summary for summary, _, _ in outputs] == [False, False, True]
    assert outputs[2][2] == outputs[0][2]
