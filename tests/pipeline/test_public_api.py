"""The public API, with the stages as functions."""

from pathlib import Path

import pytest

import distilray as dr
from distilray.runtime.run_folder import read_manifest
from tests.tiny.corpus import sentences_of
from tests.tiny.models import write_teacher, write_tokenizer

pytestmark = pytest.mark.slow

FILTERS = {"min_words": 0, "min_sentences": 0, "max_list_fraction": 1, "max_repeated_fraction": 1}
ONE_WORKER = {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1}
INTERVALS = {"evaluate_every_steps": 2, "checkpoint_every_steps": 2}


@pytest.mark.usefixtures("local_ray")
def test_the_public_api_distills_a_student_from_a_text(tmp_path: Path) -> None:
    lines = ("\n".join(document) for document in sentences_of(60))
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    texts = {"kind": "text", "name": "own", "path": tmp_path / "text.txt", "document_per": "blank_line"}
    teacher = write_teacher(tmp_path / "teacher", write_tokenizer(tmp_path / "tokenizer"), layers=4)

    corpus = dr.build_corpus(sources=[texts], filters=FILTERS, run_dir=tmp_path / "corpus")
    shards = dr.encode(
        corpus=corpus, tokenizer=teacher, max_seq_length=32, heldout_fraction=0.2, run_dir=tmp_path / "shards"
    )
    student = dr.distill(
        teacher=teacher,
        shards=shards,
        max_steps=2,
        batch_size=4,
        scaling=ONE_WORKER,
        intervals=INTERVALS,
        run_dir=tmp_path / "student",
    )

    assert Path(student.model_dir, "model.safetensors").is_file()
    assert student.scores["step"] == 2
    inputs = read_manifest(student.run_dir)["content"]["inputs"]
    assert inputs["shards"] == {"content_hash": read_manifest(shards.run_dir)["content_hash"]}
