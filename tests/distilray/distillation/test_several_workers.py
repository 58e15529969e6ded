"""Training with several workers: equal to a single worker, with different dropout on each."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.distilray.distillation import worker_group

KINDS = ["distillation", "fine_tuning"]


@pytest.fixture(scope="module")
def groups(tmp_path_factory, root, teacher_dir, shards_dir):
    """Run folders: one worker and two workers without dropout, and two workers with dropout."""
    folder = tmp_path_factory.mktemp("groups")
    values = {"teacher_dir": teacher_dir, "shards_dir": shards_dir}
    runs = {"one": (1, 0.0), "two": (2, 0.0), "dropout": (2, 0.3)}
    arguments = [(size, str(folder / name), {**values, "dropout": rate}) for name, (size, rate) in runs.items()]
    environment = {**os.environ, "PYTHONPATH": f"{root}/platform:{root}", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, worker_group.__file__, json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def weights(groups, name, rank=0):
    kind, group = name
    return load_file(groups / group / f"{kind}-{rank}.weights")


def rows(groups, group, name="metrics.jsonl"):
    return [json.loads(line) for line in (groups / group / name).read_text().splitlines()]


def assert_close(first, second, **tolerance):
    for name, values in first.items():
        torch.testing.assert_close(values, second[name], **tolerance, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_have_the_weights_of_one(groups, kind):
    assert_close(weights(groups, (kind, "two")), weights(groups, (kind, "one")), atol=1e-4, rtol=1e-3)


def test_two_workers_have_the_losses_and_gradients_of_one(groups):
    for two, one in zip(rows(groups, "two"), rows(groups, "one"), strict=True):
        for name in ("loss", "ce", "mlm", "cos", "grad_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), name


def test_two_workers_have_the_held_out_scores_of_one(groups):
    for two, one in zip(rows(groups, "two", "heldout.jsonl"), rows(groups, "one", "heldout.jsonl"), strict=True):
        assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", ["two", "dropout"])
def test_workers_end_with_equal_weights(groups, kind, group):
    assert_close(*(weights(groups, (kind, group), rank) for rank in (0, 1)), atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_worker_step_and_micro_step_draws_dropout_of_its_own(groups, kind):
    states = [json.loads((groups / f"dropout/{rank}.json").read_text())[kind] for rank in (0, 1)]
    assert len(states[0]) == len(states[1]) > 1
    assert len({*states[0], *states[1]}) == len(states[0]) + len(states[1])
