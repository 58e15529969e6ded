"""Fault tolerance of training: killed processes, broken checkpoints, hangs, full disks, preempted machines."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import read_notices
from distilray.runtime.session import ENVIRONMENT
from distilray.training.workers import START_TIMEOUT
from tests.faults.processes import kill, start, train_workers, wait_for, wait_for_value, wait_until
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.recipes import write_recipe
from tests.tiny.shards import write_shards
from tests.tiny.training import RunResult, checkpoints, content_hash, losses, train, values, weights

pytestmark = pytest.mark.slow

HANG_S = 4  # hang timeout in seconds


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with shards, a teacher, and a recipe with dropout for two workers."""
    folder = tmp_path_factory.mktemp("training")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    write_recipe(folder, **values(folder))
    return folder


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[Cluster]:
    """Cluster of two nodes with one CPU each, so that each runs one of two workers."""
    with pytest.MonkeyPatch.context() as patch:
        settings = {
            "PYTHONPATH": f"{root}{os.pathsep}{root}/platform",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
            START_TIMEOUT: "4",
        }
        for name, value in {**ENVIRONMENT, **settings}.items():
            patch.setenv(name, value)
        # Detect a lost machine after one second instead of fifteen.
        health = {"health_check_period_ms": 300, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": health}
        result = Cluster(initialize_head=True, head_node_args=head)
        result.add_node(num_cpus=1)
        ray.init(address=result.address, log_to_driver=False, logging_level="ERROR")
        yield result
        ray.shutdown()
        result.shutdown()


@pytest.fixture(scope="module")
def undisturbed(work: Path, cluster: Cluster) -> Path:
    result = train(work, work / "undisturbed")
    assert result.code == 0, result.stderr
    return result.run


# One run with several faults in sequence: its driver and all other processes are killed, the disk becomes full, the
# newest checkpoints are corrupted, a worker is killed, and another one hangs.


@dataclass(frozen=True)
class DisturbedRun(RunResult):
    """Adds the steps of the checkpoints before the run, newest first, and the process ids of hung workers."""

    before: list[int]
    hung: list[int]


@pytest.fixture(scope="module")
def lost_driver(work: Path, cluster: Cluster, root: Path) -> Path:
    """Run whose processes were killed after the first checkpoint."""
    folder = work / "lost-driver"
    run = folder / "run"
    folder.mkdir()
    process = start(root, "distill", Path(write_recipe(folder, **values(work) | {"run_dir": str(run)})))
    wait_for(lambda: bool(checkpoints(run)), process)
    kill(process)
    assert not (run / "manifest.json").exists()
    return run


@pytest.fixture(scope="module")
def full_disk(work: Path, lost_driver: Path) -> DisturbedRun:
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
def disturbed(work: Path, full_disk: RunResult) -> Iterator[DisturbedRun]:
    """Resumed run with corrupted checkpoints, in which a worker is killed and another one is stopped."""
    run = Path(shutil.copytree(full_disk.run, work / "disturbed"))
    before, hung = checkpoints(run)[::-1], []
    truncated, flipped = (run / f"checkpoints/step-{step:07d}/model.safetensors" for step in before[:2])
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)

    def disturb() -> None:
        os.kill(second_worker_after(run, 2), signal.SIGKILL)
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


def test_after_a_killed_driver_the_same_command_resumes_from_the_newest_checkpoint(full_disk: DisturbedRun) -> None:
    assert resumed_steps(full_disk.stderr) == full_disk.before[:1]


def test_a_full_disk_is_one_line_that_names_the_checkpoint(full_disk: RunResult) -> None:
    assert full_disk.code == 2, full_disk.stderr
    assert len([line for line in full_disk.stderr.splitlines() if "cannot be written" in line]) == 1
    last = full_disk.stderr.splitlines()[-1]
    assert "/checkpoints/step-" in last
    assert last.endswith("free space or choose another folder")


def test_a_run_on_a_full_disk_is_not_retried_and_publishes_nothing(full_disk: RunResult) -> None:
    assert len(resumed_steps(full_disk.stderr)) == 1  # after the driver was killed
    assert not (full_disk.run / "manifest.json").exists()


def test_a_run_resumes_from_the_newest_valid_checkpoint_and_reports_broken_ones(disturbed: DisturbedRun) -> None:
    truncated, flipped, valid = disturbed.before[:3]
    for step in (truncated, flipped):
        assert f"step-{step:07d} IS BROKEN (model.safetensors" in disturbed.stderr
    assert resumed_steps(disturbed.stderr)[0] == valid


def test_after_a_killed_worker_the_run_resumes_from_a_checkpoint(disturbed: DisturbedRun) -> None:
    assert disturbed.code == 0, disturbed.stderr
    assert resumed_steps(disturbed.stderr) == sorted(resumed_steps(disturbed.stderr))
    assert len(resumed_steps(disturbed.stderr)) == 3


def test_a_hung_worker_is_reported_and_the_stacks_of_the_other_are_saved(disturbed: DisturbedRun) -> None:
    (file,) = (disturbed.run / "hangs").iterdir()
    other = json.loads(file.read_text().partition("\n")[0])["rank"]
    assert f"NO PROGRESS FOR {HANG_S} s: rank {1 - other} is not responding" in disturbed.stderr
    assert "Thread 0x" in file.read_text()
    assert "loop.py" in file.read_text()  # where it waited for the hung worker


def test_a_hung_worker_is_killed(disturbed: DisturbedRun) -> None:
    wait_until(lambda: not train_workers())


def test_the_faults_change_no_weight_and_no_loss(undisturbed: Path, disturbed: DisturbedRun) -> None:
    assert losses(disturbed.run) == losses(undisturbed)
    assert weights(disturbed.run) == weights(undisturbed)
    assert content_hash(disturbed.run) == content_hash(undisturbed)


# Non-finite gradients.


@pytest.fixture(scope="module")
def diverged(work: Path, cluster: Cluster) -> RunResult:
    return train(work, work / "diverged", "optimizer.learning_rate=1e30", "intervals.checkpoint_every_steps=1")


def test_a_run_without_finite_gradients_fails_with_one_line_that_names_its_examples(diverged: RunResult) -> None:
    assert diverged.code == 1
    files = sorted(map(str, (diverged.run / "diverged").iterdir()))
    lines = diverged.stderr.splitlines()
    assert lines[-len(files) :] == files
    line = lines[-len(files) - 1]
    examples = json.loads(Path(files[0]).read_text())["example_ids"]
    assert "gradient norm is nan, after 3 skipped step(s) in a row" in line
    assert f"its first examples are {examples[:4]}" in line
    assert "Traceback" not in diverged.stderr


def test_a_run_without_finite_gradients_is_not_retried(diverged: RunResult) -> None:
    assert checkpoints(diverged.run)
    assert "resuming from" not in diverged.stderr


def test_a_run_without_finite_gradients_publishes_nothing(diverged: RunResult) -> None:
    assert not (diverged.run / "manifest.json").exists()
    assert not (diverged.run / "model").exists()


# Preemption of a machine.


@pytest.fixture(scope="module")
def lost_machine(work: Path, cluster: Cluster) -> Iterator[RunResult]:
    """Run with one or two workers, whose second machine is switched off at the announced time."""
    run = work / "lost-machine"
    (node,) = cluster.worker_nodes

    def take_away() -> None:
        wait_until(lambda: len(losses(run)) > 5)
        deadline = time.time() + 2
        drain(cluster, node.node_id, deadline)
        wait_until(lambda: bool(read_notices(str(run))) and bool(checkpoints(run)))
        time.sleep(max(0.0, deadline - time.time()))
        cluster.remove_node(node, allow_graceful=False)

    yield train(
        work,
        run,
        "max_steps=120",
        "intervals.checkpoint_every_steps=1000",
        "scaling.min_workers=1",
        "fault_tolerance={max_failures: 0, preemption_grace_s: 3}",
        fault=take_away,
    )
    cluster.add_node(num_cpus=1)


def drain(cluster: Cluster, node_id: str, deadline: float) -> None:
    """Announce the preemption of a machine like a cloud provider."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert GcsClient(address=cluster.address).drain_node(node_id, reason, "a test", int(deadline * 1000))[0]


def test_before_a_preemption_a_checkpoint_is_written(lost_machine: RunResult) -> None:
    first = checkpoints(lost_machine.run)[0]
    assert first < 120
    message = rf"the machine of rank [01] is being preempted: checkpoint of step {first} now"
    assert re.search(message, lost_machine.stderr), lost_machine.stderr


def test_after_a_preemption_the_run_resumes_with_the_remaining_workers(lost_machine: RunResult) -> None:
    """The run allows no failures, so that this also shows that a preemption does not count as one."""
    assert lost_machine.code == 0, lost_machine.stderr
    first = checkpoints(lost_machine.run)[0]
    assert f"resuming from the checkpoint of step {first} with 1 worker(s)" in lost_machine.stderr
