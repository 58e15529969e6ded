"""Distillation with Ray Train: the student, and the same losses with any number of workers."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, DistilBertForMaskedLM

from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import read_notices
from tests.jobs.commands import content_of, read_json, run_job

pytestmark = pytest.mark.slow

STEPS = 12
RECIPE = {
    "max_steps": STEPS,
    "batch_size": 17,  # two workers get shares of unequal size
    "micro_batch_size": 5,
    "precision": "fp32",
    "dropout": 0.0,
    "optimizer": {"learning_rate": 1e-3},
    "scaling": {"num_workers": 2, "use_gpu": False, "cpus_per_worker": 1},
    "intervals": {"log_every_steps": 1, "checkpoint_every_steps": STEPS // 3},
    "ray": {"num_cpus": 2},
}


@pytest.fixture(scope="module")
def run(shards_dir, teacher_dir, local_ray):
    """Return a function that runs the job."""

    def run(run_dir, *overrides):
        return run_job("distill", run_dir, *overrides, shards_dir=shards_dir, teacher_dir=teacher_dir, **RECIPE)

    return run


@pytest.fixture(scope="module")
def two_workers(run, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("two") / "run"
    assert run(run_dir) == 0
    return run_dir


def interrupted_copy(run_dir, target, steps):
    """Return a copy of a complete run in the state after some steps."""
    copy = Path(shutil.copytree(run_dir, target))
    shutil.rmtree(copy / "model")
    (copy / "manifest.json").unlink()
    for checkpoint in (copy / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > steps:
            shutil.rmtree(checkpoint)
    return copy


@pytest.fixture(scope="module")
def then_one(run, two_workers, tmp_path_factory):
    """The first third of the steps with two workers, and the others with one."""
    run_dir = interrupted_copy(two_workers, tmp_path_factory.mktemp("one") / "run", STEPS // 3)
    assert run(run_dir, "scaling.num_workers=1") == 0
    return run_dir


@pytest.fixture(scope="module")
def then_two(run, then_one, tmp_path_factory):
    """The same, with two workers again for the last third."""
    run_dir = interrupted_copy(then_one, tmp_path_factory.mktemp("two-again") / "run", 2 * STEPS // 3)
    assert run(run_dir) == 0
    return run_dir


def test_the_student_loads_in_transformers_and_has_half_the_layers_and_no_tensor_of_its_teacher(
    teacher_dir, two_workers
):
    model, info = AutoModelForMaskedLM.from_pretrained(two_workers / "model", output_loading_info=True)
    assert isinstance(model, DistilBertForMaskedLM)
    assert model.config.n_layers == 2
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    student = load_file(two_workers / "model/model.safetensors")
    assert not set(load_file(Path(teacher_dir, "model.safetensors"))) & set(student)
    assert all(name.startswith(("distilbert.", "vocab_")) for name in student)
    checkpoint = min((two_workers / "checkpoints").glob("step-*"))
    optimizer = load_file(checkpoint / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in optimizer} == set(student)
    assert set(student) <= set(read_json(two_workers / "initialization.json"))


def test_distillation_lowers_the_loss_of_a_smaller_model(two_workers):
    counts = content_of(two_workers)["counts"]
    assert counts["teacher_parameters"] > counts["parameters"]
    rows = read_metrics(str(two_workers / "metrics.jsonl"))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_each_step_has_the_same_loss_with_any_number_of_workers(two_workers, then_one, then_two):
    two, one, mixed = (read_metrics(str(run / "metrics.jsonl")) for run in (two_workers, then_one, then_two))
    assert [row["step"] for row in mixed] == list(range(1, STEPS + 1))
    assert len(one) == len(two) == STEPS
    for name in ("loss", "ce", "mlm", "cos"):
        assert [row[name] for row in mixed] == pytest.approx([row[name] for row in two], rel=1e-5)
    for name in ("loss", "ce", "mlm", "cos", "grad_norm"):
        assert one[STEPS // 3][name] == pytest.approx(two[STEPS // 3][name], rel=1e-5)
        assert [row[name] for row in one] == pytest.approx([row[name] for row in two], rel=1e-3)
    one_tensors, two_tensors = (load_file(run / "model/model.safetensors") for run in (then_one, two_workers))
    for name, tensor in one_tensors.items():
        torch.testing.assert_close(tensor, two_tensors[name], rtol=0, atol=1e-4, msg=name)


def test_a_run_resumes_with_fewer_and_with_more_workers(then_two):
    assert [text for text in read_notices(str(then_two)) if "resuming" in text] == [
        f"resuming from the checkpoint of step {step} with {workers} worker(s)"
        for step, workers in ((STEPS // 3, 1), (2 * STEPS // 3, 2))
    ]


def test_the_number_of_workers_does_not_affect_the_identity_of_a_run(run, two_workers, capsys):
    assert run(two_workers, "scaling.num_workers=1") == 0
    assert "skipped" in capsys.readouterr().out


def test_more_workers_than_the_cluster_can_hold_are_rejected(run, tmp_path, error_line):
    line = error_line(run(tmp_path / "run", "scaling.num_workers=3"))
    assert "no room for 3 workers with 1 CPU: the local cluster has 2 CPU" in line
