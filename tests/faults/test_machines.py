"""Sudden loss of a machine in a cluster: no work is lost or done twice."""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from distilray.runtime.run_owner import RunOwner
from distilray.runtime.session import DATA_LABELS, ENVIRONMENT, run_tasks
from tests.faults.processes import report_node, wait_until
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards
from tests.tiny.training import STEPS, RunResult, checkpoints, losses, train, values

pytestmark = pytest.mark.slow

WORKERS = 4
ITEMS = 24


class Machines:
    """Cluster whose machines can be replaced from any thread.

    The processes of Ray's test cluster are killed when the thread that started them exits (PR_SET_PDEATHSIG), so that
    one permanent thread starts all of them.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._thread = ThreadPoolExecutor(1)

    def add(self, role: str) -> None:
        self._thread.submit(self._cluster.add_node, num_cpus=WORKERS // 2, labels={"role": role}).result()

    def replace(self, role: str) -> None:
        """Switch off a machine with a role, and add another one with the same role."""
        ids = {each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Labels"].get("role") == role}
        lost = next(each for each in self._cluster.worker_nodes if each.node_id in ids)
        self._cluster.remove_node(lost, allow_graceful=False)
        self.add(role)


@pytest.fixture(scope="module")
def machines(root: Path) -> Iterator[Machines]:
    """Cluster with a head that runs no work, and two machines with half of the workers each."""
    with pytest.MonkeyPatch.context() as patch:
        paths = f"{root}{os.pathsep}{root}/platform"
        for name, value in {**ENVIRONMENT, "PYTHONPATH": paths, DATA_LABELS: "role=data"}.items():
            patch.setenv(name, value)
        # Ray installs a signal handler for each added machine, which is only possible in the main thread.
        patch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)
        # Detect a machine that refuses connections after one second, but tolerate one that is only busy.
        health = {"health_check_period_ms": 300, "health_check_timeout_ms": 30_000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        with contextlib.ExitStack() as stack:
            stack.callback(cluster.shutdown)
            result = Machines(cluster)
            for role in ("train", "data"):
                result.add(role)
            patch.setenv("RAY_ADDRESS", cluster.address)  # like jobs that are submitted to a cluster
            ray.init(log_to_driver=False, logging_level="ERROR")
            stack.callback(ray.shutdown)
            yield result


# Training, with half of the workers on each machine.


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    recipe = values(folder)
    # Without dropout, whose noise depends on the worker, the losses do not depend on the number of workers.
    write_recipe(folder, **{**recipe, "dropout": 0.0, "scaling": {**recipe["scaling"], "num_workers": WORKERS}})
    return folder


@pytest.fixture(scope="module")
def undisturbed(work: Path, machines: Machines) -> RunResult:
    return train(work, work / "undisturbed", "scaling.num_workers=1")


@pytest.fixture(scope="module")
def disturbed(work: Path, machines: Machines) -> RunResult:
    """Run in which a machine is replaced after the first checkpoint."""
    run = work / "disturbed"

    def switch_off() -> None:
        wait_until(lambda: bool(checkpoints(run)))
        machines.replace("train")

    return train(work, run, fault=switch_off)


def test_a_run_survives_the_loss_of_a_machine_with_several_workers(disturbed: RunResult) -> None:
    assert disturbed.code == 0, disturbed.stderr
    assert f"with {WORKERS} worker" in disturbed.stderr


def test_every_step_runs_once_with_the_loss_of_a_single_worker(undisturbed: RunResult, disturbed: RunResult) -> None:
    assert undisturbed.code == 0, undisturbed.stderr
    alone, together = dict(losses(undisturbed.run)), losses(disturbed.run)
    assert [step for step, _ in together] == list(range(1, STEPS + 1))
    assert dict(together) == pytest.approx(alone, rel=1e-4)


# Data.


def test_data_tasks_run_only_on_data_machines_and_survive_the_loss_of_one(machines: Machines, tmp_path: Path) -> None:
    results = []
    with RunOwner(str(tmp_path)), ThreadPoolExecutor(1) as thread:
        replacing = None
        items = [{"number": number} for number in range(ITEMS)]
        for result in run_tasks(items, report_node, job="nodes", run_dir=str(tmp_path)):
            results.append(result)
            if replacing is None:
                replacing = thread.submit(machines.replace, "data")
    assert replacing is not None
    replacing.result()
    assert Counter(each["number"] for each in results) == Counter(range(ITEMS))
    roles = {each["NodeID"]: each["Labels"].get("role") for each in ray.nodes()}
    assert {roles[each["node"]] for each in results} == {"data"}
    assert len({each["node"] for each in results}) == 2
