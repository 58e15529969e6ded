"""Distillation with Ray Train: the student, and the same losses with any number of workers."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, DistilBertForMaskedLM

from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import read_notices
from tests.golden.ray_in_process import ray_in_process
from tests.jobs.commands import content_of, read_json, run_job

pytestmark = pytest.mark.slow

STEPS, SWITCH = 12, 4  # steps in all and before the number of workers changes
RECIPE = {
    "max_steps": STEPS,
    "batch_size": 17,  # two workers get shares of unequal size
    "micro_batch_size": 5,
    "precision": "fp32",
    "dropout": 0.0,
    "optimizer": {"learning_rate": 1e-3},
    "scaling": {"num_workers": 2, "use_gpu": False, "cpus_per_worker": 1},
    "intervals": {"log_every_steps": 1, "checkpoint_every_steps": SWITCH},
    "ray": {"num_cpus": 2},
}


@pytest.fixture(scope="module")
def run(shards_dir, teacher_dir, local_ray):
    """Return a function that runs the job."""

    def run(run_dir, *overrides):
        return run_job("distill", run_dir, *overrides, shards_dir=shards_dir, teacher_dir=teacher_dir, **RECIPE)

    return run


@pytest.fixture(scope="module")
def one_worker(run, tmp_path_factory):
    """A run of one worker in this process."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    with ray_in_process():
        assert run(run_dir, "scaling.num_workers=1") == 0
    return run_dir


@pytest.fixture(scope="module")
def then_two(run, one_worker, tmp_path_factory):
    """The first steps with one worker, and the others with two."""
    run_dir = tmp_path_factory.mktemp("two") / "run"
    shutil.copytree(one_worker, run_dir)
    shutil.rmtree(run_dir / "model")
    (run_dir / "manifest.json").unlink()
    for checkpoint in (run_dir / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > SWITCH:
            shutil.rmtree(checkpoint)
    assert run(run_dir) == 0
    return run_dir


def test_the_student_loads_in_transformers_and_has_half_the_layers_and_no_tensor_of_its_teacher(
    teacher_dir, one_worker
):
    model, info = AutoModelForMaskedLM.from_pretrained(one_worker / "model", output_loading_info=True)
    assert isinstance(model, DistilBertForMaskedLM)
    assert model.config.n_layers == 2
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    student = load_file(one_worker / "model/model.safetensors")
    assert not set(load_file(Path(teacher_dir, "model.safetensors"))) & set(student)
    assert all(name.startswith(("distilbert.", "vocab_")) for name in student)
    checkpoint = min((one_worker / "checkpoints").glob("step-*"))
    optimizer = load_file(checkpoint / "optimizer.safetensors")
    assert {name.rpartition("/")[0] for name in optimizer} == set(student)
    assert set(student) <= set(read_json(one_worker / "initialization.json"))


def test_distillation_lowers_the_loss_of_a_smaller_model(one_worker):
    counts = content_of(one_worker)["counts"]
    assert counts["teacher_parameters"] > counts["parameters"]
    rows = read_metrics(str(one_worker / "metrics.jsonl"))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_each_step_has_the_same_loss_with_another_number_of_workers(one_worker, then_two):
    one, two = (read_metrics(str(run / "metrics.jsonl")) for run in (one_worker, then_two))
    assert [row["step"] for row in two] == list(range(1, STEPS + 1))
    for name in ("loss", "ce", "mlm", "cos", "grad_norm"):
        assert two[SWITCH][name] == pytest.approx(one[SWITCH][name], rel=1e-5)
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-3)
    one_tensors, two_tensors = (load_file(run / "model/model.safetensors") for run in (one_worker, then_two))
    for name, tensor in one_tensors.items():
        torch.testing.assert_close(tensor, two_tensors[name], rtol=0, atol=1e-4, msg=name)


def test_a_run_resumes_with_more_workers(then_two):
    """Fewer workers are tested in tests/faults/test_training.py."""
    assert [text for text in read_notices(str(then_two)) if "resuming" in text] == [
        f"resuming from the checkpoint of step {SWITCH} with 2 worker(s)"
    ]


def test_the_number_of_workers_does_not_affect_the_identity_of_a_run(run, one_worker, capsys):
    assert run(one_worker) == 0
    assert "skipped" in capsys.readouterr().out


def test_more_workers_than_the_cluster_can_hold_are_rejected(run, tmp_path, error_line):
    line = error_line(run(tmp_path / "run", "scaling.num_workers=3"))
    assert "no room for 3 workers with 1 CPU: the local cluster has 2 CPU" in line
