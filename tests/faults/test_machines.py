"""A cluster of several machines, one of which is switched off without a word: nothing is lost or done twice."""

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
from tests.distilray.tiny_line import write_recipe, write_shards, write_teacher, write_tokenizer
from tests.faults.processes import eventually, note_where
from tests.faults.small_training import STEPS, Ended, checkpoints, fit, losses, values

pytestmark = pytest.mark.slow

WORKERS = 4
ITEMS = 24


class Machines:
    """A cluster whose machines can be replaced from any thread.

    Linux ends a process that asked for it with the thread that started it, as a machine of Ray's test cluster does, so
    one thread starts them all and stays.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._thread = ThreadPoolExecutor(1)

    def add(self, role: str) -> None:
        self._thread.submit(self._cluster.add_node, num_cpus=WORKERS // 2, labels={"role": role}).result()

    def replace(self, role: str) -> None:
        """Switches off a machine of that role, and adds another one of its kind."""
        ids = {each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Labels"].get("role") == role}
        gone = next(each for each in self._cluster.worker_nodes if each.node_id in ids)
        self._cluster.remove_node(gone, allow_graceful=False)
        self.add(role)


@pytest.fixture(scope="module")
def machines(root: Path) -> Iterator[Machines]:
    """A head without work, and two machines that hold half of the workers each."""
    with pytest.MonkeyPatch.context() as patch:
        paths = f"{root}{os.pathsep}{root}/platform"
        for name, value in {**ENVIRONMENT, "PYTHONPATH": paths, DATA_LABELS: "role=data"}.items():
            patch.setenv(name, value)
        # Ray wants the signals of the process for each machine that is added, which only the main thread has.
        patch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)
        # A machine that is gone answers no call at all, and is missed after a second; one that is only busy is not.
        health = {"health_check_period_ms": 300, "health_check_timeout_ms": 30_000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        with contextlib.ExitStack() as stack:
            stack.callback(cluster.shutdown)
            found = Machines(cluster)
            for role in ("train", "data"):
                found.add(role)
            patch.setenv("RAY_ADDRESS", cluster.address)  # jobs join it as those that are submitted to a cluster do
            ray.init(log_to_driver=False, logging_level="ERROR")
            stack.callback(ray.shutdown)
            yield found


# Training: workers over two machines, as many on each.


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    recipe = values(folder)
    # Without dropout, whose noise is that of each worker, a step has the same loss with any number of them.
    write_recipe(folder, **{**recipe, "dropout": 0.0, "scaling": {**recipe["scaling"], "num_workers": WORKERS}})
    return folder


@pytest.fixture(scope="module")
def undisturbed(work: Path, machines: Machines) -> Ended:
    return fit(work, work / "undisturbed", "scaling.num_workers=1")


@pytest.fixture(scope="module")
def disturbed(work: Path, machines: Machines) -> Ended:
    """Its second machine is switched off after the first checkpoint, and another one comes."""
    run = work / "disturbed"

    def switch_off() -> None:
        eventually(lambda: bool(checkpoints(run)))
        machines.replace("train")

    return fit(work, run, deed=switch_off)


def test_a_run_survives_one_of_its_two_machines_with_several_workers(disturbed: Ended) -> None:
    assert disturbed.code == 0, disturbed.told
    assert f"with {WORKERS} worker" in disturbed.told


def test_every_step_is_made_once_as_one_worker_would_have_made_it(undisturbed: Ended, disturbed: Ended) -> None:
    assert undisturbed.code == 0, undisturbed.told
    alone, together = dict(losses(undisturbed.run)), losses(disturbed.run)
    assert [step for step, _ in together] == list(range(1, STEPS + 1))
    assert dict(together) == pytest.approx(alone, rel=1e-4)


# Data.


def test_data_work_stays_on_its_machines_and_none_is_lost_or_doubled_with_one_of_them(
    machines: Machines, tmp_path: Path
) -> None:
    found = []
    with RunOwner(str(tmp_path)), ThreadPoolExecutor(1) as beside:
        replacing = None
        items = [{"number": number} for number in range(ITEMS)]
        for result in run_tasks(items, note_where, job="notes", run_dir=str(tmp_path)):
            found.append(result)
            if replacing is None:
                replacing = beside.submit(machines.replace, "data")
    assert replacing is not None
    replacing.result()
    assert Counter(each["number"] for each in found) == Counter(range(ITEMS))
    roles = {each["NodeID"]: each["Labels"].get("role") for each in ray.nodes()}
    assert {roles[each["node"]] for each in found} == {"data"}
    assert len({each["node"] for each in found}) == 2
