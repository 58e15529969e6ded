import pytest
import torch

from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import train_loop
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.metrics import read_metrics
from tests.tiny.teacher_cache import write_cache

STEPS = 6
VALUES = {
    "run_dir": "unused",
    "max_steps": STEPS,
    "batch_size": 16,
    "micro_batch_size": 5,
    "precision": "fp32",
    "dropout": 0.0,
    "optimizer": {"learning_rate": 2e-3},
    "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
    "intervals": {"log_every_steps": 1, "evaluate_every_steps": 3, "poll_preemption_every_steps": STEPS + 1},
}


def fit(config, run):
    """Run the loop in this process, and return the rows of its log and its held-out scores."""
    run.mkdir()
    settings = LoopSettings(
        config=config,
        losses=config.losses,
        create_models=create_student_and_teacher,
        tokenizer_json=read_tokenizer(config.teacher_dir),
        total_steps=STEPS,
        run_uri=str(run),
        teacher_cache_dir=config.teacher_cache_dir,
    )
    train_loop(settings)
    return read_metrics(str(run / "metrics.jsonl")), read_metrics(str(run / "heldout.jsonl"))


@pytest.mark.parametrize("positions", ["all", "masked"])
def test_a_run_with_a_cache_of_the_whole_vocabulary_learns_as_one_with_the_teacher(
    tmp_path, shards_dir, teacher_dir, positions
):
    vocabulary = load_masked_lm(teacher_dir).config.vocab_size
    cache_dir = write_cache(tmp_path / "cache", shards_dir, teacher_dir, top_k=vocabulary, positions=positions)
    values = {**VALUES, "teacher_dir": teacher_dir, "shards_dir": shards_dir, "losses": {"ce_positions": positions}}
    plain, cached = (DistillConfig.model_validate(values | extra) for extra in ({}, {"teacher_cache_dir": cache_dir}))
    (rows, scores), (found, found_scores) = fit(plain, tmp_path / "plain"), fit(cached, tmp_path / "cached")
    assert len(rows) == len(found) == STEPS
    for name in ("loss", "ce", "mlm", "cos"):
        assert [row[name] for row in found] == pytest.approx([row[name] for row in rows], rel=5e-3)
    assert len(scores) == len(found_scores) == 3
    for one, other in zip(found_scores, scores, strict=True):
        assert one.keys() == other.keys()
        assert one["agreement"] == pytest.approx(other["agreement"], abs=0.02)
        assert one["loss"] == pytest.approx(other["loss"], rel=5e-3)


def test_a_run_with_a_cache_keeps_no_teacher_once_the_student_is_made(tmp_path, shards_dir, teacher_dir):
    values = {**VALUES, "teacher_dir": teacher_dir, "shards_dir": shards_dir}
    cached = DistillConfig.model_validate({**values, "teacher_cache_dir": str(tmp_path)})
    expected, teacher = create_student_and_teacher(DistillConfig.model_validate(values))
    student, nothing = create_student_and_teacher(cached)
    assert teacher is not None
    assert nothing is None
    for one, other in zip(student.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)
