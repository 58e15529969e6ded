"""Eight workers of Ray Train on two machines train like one worker."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from distilray.runtime.metrics import read_metrics
from distilray.runtime.session import ENVIRONMENT
from tests.tiny.recipes import write_recipe
from tests.tiny.training import RunResult, train, values

pytestmark = pytest.mark.slow

STEPS, MACHINES, CPUS = 6, 2, 4  # CPUs of each machine; a worker takes one
ROUNDING = 1e-5  # a hundred times that of these runs


@contextlib.contextmanager
def ray_cluster(root: Path) -> Iterator[Cluster]:
    """Start a cluster whose head runs no work, and connect this process to it. The caller adds machines."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        paths = f"{root}{os.pathsep}{root}/platform"
        for name, value in {**ENVIRONMENT, "PYTHONPATH": paths}.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        stack.callback(cluster.shutdown)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        yield cluster


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, root: Path, shards_dir: str, teacher_dir: str) -> list[RunResult]:
    """Runs with one worker and with eight, without dropout, which differs between workers."""
    folder = tmp_path_factory.mktemp("eight-workers")
    shutil.copytree(shards_dir, folder / "shards")
    shutil.copytree(teacher_dir, folder / "teacher")
    write_recipe(folder, **values(folder) | {"max_steps": STEPS, "dropout": 0.0})
    with ray_cluster(root) as cluster:
        for _ in range(MACHINES):
            cluster.add_node(num_cpus=CPUS)
        return [
            train(folder, folder / f"run-{count}", f"scaling.num_workers={count}") for count in (1, MACHINES * CPUS)
        ]


def test_eight_workers_on_two_machines_have_the_losses_and_gradients_of_one(runs: list[RunResult]) -> None:
    one, eight = (read_metrics(str(run.run / "metrics.jsonl")) for run in runs)
    assert [run.code for run in runs] == [0, 0], runs[-1].stderr
    assert [row["step"] for row in eight] == list(range(1, STEPS + 1))
    for row, expected in zip(eight, one, strict=True):
        for name in ("loss", "ce", "mlm", "cos", "grad_norm"):
            assert row[name] == pytest.approx(expected[name], rel=ROUNDING), name


def test_eight_workers_on_two_machines_end_with_the_weights_of_one(runs: list[RunResult]) -> None:
    one, eight = (load_file(run.run / "model/model.safetensors") for run in runs)
    assert one.keys() == eight.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(eight[name], tensor, rtol=0.0, atol=ROUNDING, msg=name)
