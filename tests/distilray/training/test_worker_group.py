"""Training with several processes: equal to a single one, with different dropout in each."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.distilray.training import worker_group
from tests.tiny.teacher_cache import write_cache

pytestmark = pytest.mark.slow
ROUNDING = 1e-5
both_jobs = pytest.mark.parametrize("job", ["distillation", "fine_tuning"])
several = pytest.mark.parametrize(("group", "size"), [("two", 2), ("eight", 8)])


@pytest.fixture(scope="module")
def groups(tmp_path_factory, root, teacher_dir, shards_dir):
    """Run folders: one, two and eight workers without dropout, one and two with a teacher cache, two with dropout, and
    three that sum gradients.
    """
    folder = tmp_path_factory.mktemp("groups")
    values = {"teacher_dir": teacher_dir, "shards_dir": shards_dir, "dropout": 0.0}
    cached = {"teacher_cache_dir": write_cache(folder / "cache", shards_dir, teacher_dir)}
    runs = [
        ("train", size, str(folder / name), {**values, **changes})
        for name, size, changes in (
            ("one", 1, {}),
            ("two", 2, {}),
            ("eight", 8, {}),
            ("one-cached", 1, cached),
            ("two-cached", 2, cached),
            ("dropout", 2, {"dropout": 0.3}),
        )
    ]
    command = [sys.executable, worker_group.__file__, json.dumps([*runs, ("sum_gradients", 3, str(folder / "sums"))])]
    environment = {**os.environ, "PYTHONPATH": f"{root}/platform:{root}", "GLOO_SOCKET_IFNAME": "lo"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder


def record_of(groups, group, rank=0):
    return json.loads((groups / group / f"{rank}.json").read_text())


def assert_same_weights(groups, job, first, second, **tolerance):
    """Compare the weights of two workers: (group, rank)."""
    one, two = (load_file(groups / group / f"{job}-{rank}.weights") for group, rank in (first, second))
    for name, values in one.items():
        torch.testing.assert_close(values, two[name], **tolerance, msg=name)


@both_jobs
@several
def test_several_workers_end_with_the_weights_of_one(groups, job, group, size):
    assert_same_weights(groups, job, (group, 0), ("one", 0), atol=1e-4, rtol=1e-3)
    assert_same_weights(groups, job, (group, 0), (group, size - 1), atol=0, rtol=0)


@both_jobs
def test_workers_with_different_dropout_end_with_the_same_weights(groups, job):
    assert_same_weights(groups, job, ("dropout", 0), ("dropout", 1), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("single", "group", "size"), [("one", "two", 2), ("one", "eight", 8), ("one-cached", "two-cached", 2)]
)
def test_several_workers_have_the_losses_gradients_and_scores_of_one(groups, single, group, size):
    for file in ("metrics.jsonl", "heldout.jsonl"):
        rows, one = (
            [json.loads(line) for line in (groups / name / file).read_text().splitlines()] for name in (group, single)
        )
        assert len(rows) == len(one) >= worker_group.STEPS
        for row, expected in zip(rows, one, strict=True):
            values = {
                name: expected[name] for name in ("loss", "ce", "mlm", "cos", "grad_norm", "hit@1") if name in row
            }
            assert {name: row[name] for name in values} == pytest.approx(values, rel=ROUNDING)
    workers = (single, 0), (group, 0), (group, size - 1)
    losses = [record_of(groups, *worker)["fine_tuning"]["losses"] for worker in workers]
    assert losses[1] == losses[2] == pytest.approx(losses[0], abs=1e-5)


@both_jobs
def test_each_worker_step_and_micro_step_has_its_own_dropout(groups, job):
    states = [state for rank in (0, 1) for state in record_of(groups, "dropout", rank)[job]["states"]]
    assert len(set(states)) == len(states) > 3


def test_the_text_of_the_first_worker_is_broadcast(groups):
    assert [record_of(groups, "two", rank)["text"] for rank in (0, 1)] == ["from rank 0"] * 2


def test_sums_of_three_gradients_are_rounded_equally_in_every_step(groups):
    # Sums of two gradients have the same bits in both orders. DDP could rebuild its buckets after the first step.
    records = [record_of(groups, "sums", rank) for rank in range(3)]
    assert records[0]["buckets"] > 2
    assert len({step for record in records for step in record["hashes"]}) == 1


def test_gradients_stay_in_the_buckets_of_ddp(groups):
    first, *others = record_of(groups, "sums")["addresses"]
    assert others == [first] * 2
