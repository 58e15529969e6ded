"""The public API: a pipeline from a dump to a student, with the stages as functions."""

from pathlib import Path

import pytest

import distilray as dr
from distilray.runtime.run_folder import read_manifest
from tests.tiny.corpus import sentences_of
from tests.tiny.dumps import page, write_multistream

FILTERS = {"min_words": 0, "min_sentences": 0, "max_list_fraction": 1, "max_repeated_fraction": 1}


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.usefixtures("local_ray")
def test_the_public_api_distills_a_student_from_a_dump(tmp_path: Path, teacher_dir: str) -> None:
    pages = [page(number, f"Page {number}", " ".join(text)) for number, text in enumerate(sentences_of(60), 1)]
    dump = write_multistream(tmp_path, pages)
    corpus = dr.build_corpus(sources=[{"path": dump.uri}], filters=FILTERS, run_dir=tmp_path / "corpus")
    shards = dr.encode(
        corpus=corpus, tokenizer=teacher_dir, max_seq_length=32, heldout_fraction=0.2, run_dir=tmp_path / "shards"
    )
    student = dr.distill(
        teacher=teacher_dir,
        shards=shards,
        max_steps=2,
        batch_size=4,
        scaling={"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
        intervals={"evaluate_every_steps": 2, "checkpoint_every_steps": 2},
        run_dir=tmp_path / "student",
    )
    assert Path(student.model_dir, "model.safetensors").is_file()
    assert student.scores["step"] == 2
    inputs = read_manifest(student.run_dir)["content"]["inputs"]
    assert inputs["shards"] == {"content_hash": read_manifest(shards.run_dir)["content_hash"]}
