"""Fault tolerance on a cluster: killed processes, hangs, broken checkpoints, full disks, lost machines."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray._private.node import Node
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import get_or_create_autoscaling_coordinator

from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import read_notices
from distilray.runtime.run_owner import RunOwner
from distilray.runtime.session import DATA_LABELS, ENVIRONMENT, run_tasks
from distilray.training.workers import START_TIMEOUT
from tests.faults.processes import (
    LIMIT_S,
    kill,
    processes_below,
    report_node,
    start,
    train_workers,
    wait_for,
    wait_for_value,
    wait_until,
)
from tests.golden.ray_in_process import ray_in_process
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards
from tests.tiny.training import STEPS, RunResult, checkpoints, content_hash, losses, train, values, weights

pytestmark = pytest.mark.slow

HANG_S = 4  # hang timeout in seconds
CPUS = 2  # of each machine; a worker takes one CPU
PREEMPTED_STEPS = 120  # more than the workers can do from the notice of a preemption to its checkpoint
WITHOUT_DROPOUT = (  # which differs between numbers of workers
    "dropout=0",
    f"max_steps={PREEMPTED_STEPS}",
    "micro_batch_size=12",
    "intervals.checkpoint_every_steps=1000",
)
ROUNDING = 1e-5  # ten times that of this run


class Machines:
    """Cluster with one machine per role, which can be replaced from any thread.

    The processes of Ray's test cluster are killed when the thread that started them exits (PR_SET_PDEATHSIG), so that
    one permanent thread starts all of them.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self.address = cluster, cluster.address
        self._thread, self._nodes = ThreadPoolExecutor(1), dict[str, Node]()

    def add(self, role: str) -> None:
        add = self._thread.submit(self._cluster.add_node, num_cpus=CPUS, labels={"role": role})
        self._nodes[role] = add.result()

    def remove(self, role: str) -> None:
        """Switch off a machine, and wait until the cluster has noticed it."""
        node = self._nodes.pop(role)
        self._cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: node.node_id not in {each["NodeID"] for each in ray.nodes() if each["Alive"]})
        # Ray Train would otherwise count the machines of elastic runs again only after 20 s.
        ray.get(get_or_create_autoscaling_coordinator()._tick.remote())

    def replace(self, role: str) -> None:
        """Switch off a machine, and add another one with the same role."""
        self.remove(role)
        self.add(role)

    def announce_preemption(self, role: str, deadline: float) -> None:
        """Announce the preemption of a machine like a cloud provider."""
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        node_id = self._nodes[role].node_id
        assert GcsClient(address=self.address).drain_node(node_id, reason, "a test", int(deadline * 1000))[0]

    def role_of(self, pid: int) -> str:
        """Return the role of the machine on which a worker runs."""
        raylets = {role: node.all_processes["raylet"][0].process.pid for role, node in self._nodes.items()}
        return next(role for role, raylet in raylets.items() if pid in processes_below(raylet))


@pytest.fixture(scope="module")
def machines(root: Path) -> Iterator[Machines]:
    """Cluster with a head that runs no work, and two machines."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        paths = f"{root}{os.pathsep}{root}/platform"
        poll = {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.1"}
        for name, value in {**ENVIRONMENT, "PYTHONPATH": paths, **poll}.items():
            patch.setenv(name, value)
        # Ray installs a signal handler for each added machine, which is only possible in the main thread.
        patch.setattr("ray._private.utils.set_sigterm_handler", lambda handler: None)
        # Detect a machine that refuses connections after one second, but tolerate one that is only busy.
        health = {"health_check_period_ms": 300, "health_check_timeout_ms": 30_000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        stack.callback(cluster.shutdown)
        result = Machines(cluster)
        for role in ("train", "data"):
            result.add(role)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        yield result


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with shards, a teacher, and a recipe with dropout for two workers."""
    folder = tmp_path_factory.mktemp("training")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    write_recipe(folder, **values(folder))
    return folder


# One run with several faults in sequence: its driver and all other processes are killed, the disk becomes full, the
# newest checkpoints are corrupted, a machine with both workers is lost, and a worker hangs until it is killed.


@dataclass(frozen=True)
class DisturbedRun(RunResult):
    """Adds the steps of the checkpoints before the run, newest first, and the process ids of hung workers."""

    before: list[int]
    hung: list[int]


@pytest.fixture(scope="module")
def lost_driver(work: Path, root: Path) -> Path:
    """Run whose processes were killed after the first checkpoint."""
    folder = work / "lost-driver"
    run = folder / "run"
    folder.mkdir()
    process = start(root, "distill", write_recipe(folder, **values(work) | {"run_dir": str(run)}))
    wait_for(lambda: bool(checkpoints(run)), process)
    kill(process)
    assert not (run / "manifest.json").exists()
    return run


@pytest.fixture(scope="module")
def full_disk(work: Path, lost_driver: Path, machines: Machines) -> DisturbedRun:
    """Resumed run whose workers cannot write large files after the third checkpoint."""
    run = Path(shutil.copytree(lost_driver, work / "full-disk"))
    before = checkpoints(run)[::-1]

    def fill() -> None:
        wait_until(lambda: len(checkpoints(run)) >= 3)
        for pid in both_workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (60_000, 60_000))

    result = train(work, run, fault=fill)
    return DisturbedRun(run, result.code, result.stderr, before, [])


@pytest.fixture(scope="module")
def disturbed(work: Path, full_disk: RunResult, machines: Machines) -> Iterator[DisturbedRun]:
    """Resumed run with corrupted checkpoints, which loses a machine, and of which a worker is stopped."""
    run = Path(shutil.copytree(full_disk.run, work / "disturbed"))
    before, hung = checkpoints(run)[::-1], []
    truncated, flipped = (run / f"checkpoints/step-{step:07d}/model.safetensors" for step in before[:2])
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)

    def disturb() -> None:
        machines.replace(machines.role_of(second_worker_after(run, 2)))
        hung.append(second_worker_after(run, 3))
        os.kill(hung[0], signal.SIGSTOP)

    result = train(work, run, f"fault_tolerance.hang_timeout_s={HANG_S}", fault=disturb)
    yield DisturbedRun(run, result.code, result.stderr, before, hung)
    if hung[0] in train_workers():
        with contextlib.suppress(ProcessLookupError):  # it has exited since
            os.kill(hung[0], signal.SIGKILL)


def second_worker_after(run: Path, resumptions: int) -> int:
    """Return the second worker once the run has resumed a number of times and has completed another step."""
    wait_until(lambda: len(resumed_steps("\n".join(read_notices(str(run))))) == resumptions)
    since = time.time()
    wait_until(lambda: read_metrics(str(run / "metrics.jsonl"))[-1]["time"] > since)
    return both_workers()[1]


def both_workers() -> list[int]:
    """Return the two workers of a run, once those of a previous attempt have exited."""
    return wait_for_value(train_workers, lambda pids: len(pids) == 2)


def resumed_steps(log: str) -> list[int]:
    """Return the steps of the checkpoints from which a run has resumed."""
    return [int(step) for step in re.findall(r"resuming from the checkpoint of step (\d+) with 2 worker", log)]


@pytest.mark.smoke
def test_after_a_killed_driver_the_same_command_resumes_from_the_newest_checkpoint(full_disk: DisturbedRun) -> None:
    assert resumed_steps(full_disk.stderr) == full_disk.before[:1]


def test_a_run_on_a_full_disk_ends_with_one_line_and_is_neither_retried_nor_complete(full_disk: RunResult) -> None:
    assert full_disk.code == 2, full_disk.stderr
    assert len([line for line in full_disk.stderr.splitlines() if "cannot be written" in line]) == 1
    last = full_disk.stderr.splitlines()[-1]
    assert "/checkpoints/step-" in last
    assert last.endswith("free space or choose another folder")
    assert len(resumed_steps(full_disk.stderr)) == 1  # after the driver was killed
    assert not (full_disk.run / "manifest.json").exists()


def test_a_run_resumes_from_the_newest_valid_checkpoint_and_reports_broken_ones(disturbed: DisturbedRun) -> None:
    truncated, flipped, valid = disturbed.before[:3]
    for step in (truncated, flipped):
        assert f"step-{step:07d} IS BROKEN (model.safetensors" in disturbed.stderr
    assert resumed_steps(disturbed.stderr)[0] == valid


def test_after_a_lost_machine_and_a_hung_worker_the_run_resumes_each_time(disturbed: DisturbedRun) -> None:
    assert disturbed.code == 0, disturbed.stderr
    assert resumed_steps(disturbed.stderr) == sorted(resumed_steps(disturbed.stderr))
    assert len(resumed_steps(disturbed.stderr)) == 3


def test_a_hung_worker_is_reported_and_killed_and_the_stacks_of_the_other_are_saved(disturbed: DisturbedRun) -> None:
    (file,) = (disturbed.run / "hangs").iterdir()
    other = json.loads(file.read_text().partition("\n")[0])["rank"]
    assert f"NO PROGRESS FOR {HANG_S} s: rank {1 - other} is not responding" in disturbed.stderr
    assert "Thread 0x" in file.read_text()
    assert "loop.py" in file.read_text()  # where it waited for the hung worker
    wait_until(lambda: not train_workers())


def test_the_faults_change_no_weight_and_no_loss(work: Path, machines: Machines, disturbed: DisturbedRun) -> None:
    undisturbed = train(work, work / "undisturbed")
    assert undisturbed.code == 0, undisturbed.stderr
    assert [step for step, _ in losses(disturbed.run)] == list(range(1, STEPS + 1))
    for result in (losses, weights, content_hash):
        assert result(disturbed.run) == result(undisturbed.run)


@pytest.fixture(scope="module")
def preempted(work: Path, machines: Machines) -> RunResult:
    """Run without dropout with a worker on each of two machines, of which one is preempted.

    The run allows no failures, so that this also shows that a preemption does not count as one.
    """
    run = work / "preempted"

    def preempt() -> None:
        wait_until(lambda: len(losses(run)) > 5)
        machines.announce_preemption("data", time.time() + LIMIT_S)
        wait_until(lambda: bool(checkpoints(run)))
        (remaining,) = [pid for pid in both_workers() if machines.role_of(pid) == "train"]
        os.kill(remaining, signal.SIGSTOP)  # both workers would otherwise train until Ray notices the loss
        try:
            machines.announce_preemption("data", time.time())  # Ray expects a loss only after the deadline
            machines.remove("data")
        finally:
            os.kill(remaining, signal.SIGCONT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(START_TIMEOUT, "4")
        result = train(
            work,
            run,
            *WITHOUT_DROPOUT,
            f"scaling={{num_workers: 2, min_workers: 1, cpus_per_worker: {CPUS}, use_gpu: false}}",  # one per machine
            "fault_tolerance={max_failures: 0, preemption_grace_s: 3}",
            fault=preempt,
        )
    machines.add("data")
    return result


def test_before_a_preemption_a_checkpoint_is_written_from_which_the_remaining_worker_resumes(
    preempted: RunResult,
) -> None:
    assert preempted.code == 0, preempted.stderr
    (step,) = re.findall(r"resuming from the checkpoint of step (\d+) with 1 worker\(s\)", preempted.stderr)
    assert int(step) < PREEMPTED_STEPS
    message = rf"the machine of rank [01] is being preempted: checkpoint of step {step} now"
    assert re.search(message, preempted.stderr), preempted.stderr


def test_workers_on_two_machines_and_the_remaining_one_train_like_one_process(work: Path, preempted: RunResult) -> None:
    with ray_in_process():
        alone = train(work, work / "alone", *WITHOUT_DROPOUT, "scaling.num_workers=1")
    assert alone.code == 0, alone.stderr
    assert [step for step, _ in losses(preempted.run)] == list(range(1, PREEMPTED_STEPS + 1))
    for name in ("loss", "ce", "mlm", "cos", "grad_norm"):
        one, two = ([row[name] for row in read_metrics(str(run.run / "metrics.jsonl"))] for run in (alone, preempted))
        assert two == pytest.approx(one, rel=ROUNDING), name


def test_data_tasks_run_only_on_data_machines_and_survive_the_loss_of_one(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", machines.address)  # like jobs that are submitted to a cluster
    monkeypatch.setenv(DATA_LABELS, "role=data")
    items, results = [{"number": number} for number in range(16)], []
    with RunOwner(str(tmp_path)), ThreadPoolExecutor(1) as thread:
        replacing = None
        for result in run_tasks(items, report_node, job="nodes", run_dir=str(tmp_path)):
            results.append(result)
            if replacing is None:
                replacing = thread.submit(machines.replace, "data")
    assert replacing is not None
    replacing.result()
    assert Counter(each["number"] for each in results) == Counter(range(len(items)))
    roles = {each["NodeID"]: each["Labels"].get("role") for each in ray.nodes()}
    assert {roles[each["node"]] for each in results} == {"data"}
    assert len({each["node"] for each in results}) == 2
