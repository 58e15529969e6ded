"""Training under faults: killed workers and drivers, broken checkpoints, hangs, full disks, machines that go."""

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
from tests.distilray.tiny_line import write_recipe, write_shards, write_teacher, write_tokenizer
from tests.faults.processes import eventual, eventually, kill, start, train_workers, wait_for
from tests.faults.small_training import Ended, checkpoints, content_hash, fit, losses, values, weights

pytestmark = pytest.mark.slow

HANG_S = 4  # seconds until a worker that does not move is taken to hang


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a teacher, and a recipe with dropout for two workers."""
    folder = tmp_path_factory.mktemp("training")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    write_recipe(folder, **values(folder))
    return folder


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[Cluster]:
    """Two nodes with a CPU each, so that each holds one of two workers."""
    with pytest.MonkeyPatch.context() as patch:
        settings = {
            "PYTHONPATH": f"{root}{os.pathsep}{root}/platform",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
            START_TIMEOUT: "4",
        }
        for name, value in {**ENVIRONMENT, **settings}.items():
            patch.setenv(name, value)
        # A machine that is gone is missed after a second, not after fifteen.
        health = {"health_check_period_ms": 300, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": health}
        found = Cluster(initialize_head=True, head_node_args=head)
        found.add_node(num_cpus=1)
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture(scope="module")
def undisturbed(work: Path, cluster: Cluster) -> Path:
    ended = fit(work, work / "undisturbed")
    assert ended.code == 0, ended.told
    return ended.run


# One run to which all of this is done: its driver is killed with all that it has started, then the disk is full, then
# its newest checkpoints are not what was saved, then a worker is killed and another one hangs.


@dataclass(frozen=True)
class Disturbed(Ended):
    """The steps of the checkpoints that there were before, newest first; of hung workers the process ids."""

    before: list[int]
    hung: list[int]


@pytest.fixture(scope="module")
def lost_driver(work: Path, cluster: Cluster, root: Path) -> Path:
    """Killed after its first checkpoint."""
    folder = work / "lost-driver"
    run = folder / "run"
    folder.mkdir()
    process = start(root, "distill", Path(write_recipe(folder, **values(work) | {"run_dir": str(run)})))
    wait_for(lambda: bool(checkpoints(run)), process)
    kill(process)
    assert not (run / "manifest.json").exists()
    return run


@pytest.fixture(scope="module")
def full_disk(work: Path, lost_driver: Path) -> Disturbed:
    """The same command; after its third checkpoint no file of a worker may grow beyond what its small files need."""
    run = Path(shutil.copytree(lost_driver, work / "full-disk"))
    before = checkpoints(run)[::-1]

    def fill() -> None:
        eventually(lambda: len(checkpoints(run)) >= 3)
        for pid in both_workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (60_000, 60_000))

    ended = fit(work, run, deed=fill)
    return Disturbed(run, ended.code, ended.told, before, [])


@pytest.fixture(scope="module")
def disturbed(work: Path, full_disk: Ended) -> Iterator[Disturbed]:
    """The same command when there is space, with broken checkpoints; a worker is killed, then one is stopped."""
    run = Path(shutil.copytree(full_disk.run, work / "disturbed"))
    before, hung = checkpoints(run)[::-1], []
    torn, flipped = (run / f"checkpoints/step-{step:07d}/model.safetensors" for step in before[:2])
    torn.write_bytes(torn.read_bytes()[:-1000])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)

    def disturb() -> None:
        os.kill(moving_worker(run, 2), signal.SIGKILL)
        hung.append(moving_worker(run, 3))
        os.kill(hung[0], signal.SIGSTOP)

    ended = fit(work, run, f"fault_tolerance.hang_timeout_s={HANG_S}", deed=disturb)
    yield Disturbed(run, ended.code, ended.told, before, hung)
    if hung[0] in train_workers():
        with contextlib.suppress(ProcessLookupError):  # it has ended since
            os.kill(hung[0], signal.SIGKILL)


def moving_worker(run: Path, times: int) -> int:
    """The second worker, as soon as the run has gone on so many times and has made a step since."""
    eventually(lambda: len(gone_on("\n".join(read_notices(str(run))))) == times)
    since = time.time()
    eventually(lambda: read_metrics(str(run / "metrics.jsonl"))[-1]["time"] > since)
    return both_workers()[1]


def both_workers() -> list[int]:
    """The two workers of a run; those of an attempt before have ended."""
    return eventual(train_workers, lambda pids: len(pids) == 2)


def gone_on(told: str) -> list[int]:
    """The steps from whose checkpoints a run has gone on."""
    return [int(step) for step in re.findall(r"going on from the checkpoint of step (\d+) with 2 worker", told)]


def test_after_a_killed_driver_the_same_command_goes_on_from_its_newest_checkpoint(full_disk: Disturbed) -> None:
    assert gone_on(full_disk.told) == full_disk.before[:1]


def test_a_full_disk_is_one_line_that_names_the_checkpoint(full_disk: Ended) -> None:
    assert full_disk.code == 2, full_disk.told
    assert len([line for line in full_disk.told.splitlines() if "cannot be written" in line]) == 1
    last = full_disk.told.splitlines()[-1]
    assert "/checkpoints/step-" in last
    assert last.endswith("free space or choose another folder")


def test_a_full_disk_is_not_tried_again_and_publishes_nothing(full_disk: Ended) -> None:
    assert len(gone_on(full_disk.told)) == 1  # after the driver was killed
    assert not (full_disk.run / "manifest.json").exists()


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole_and_says_so(disturbed: Disturbed) -> None:
    torn, flipped, whole = disturbed.before[:3]
    for step in (torn, flipped):
        assert f"step-{step:07d} IS BROKEN (model.safetensors" in disturbed.told
    assert gone_on(disturbed.told)[0] == whole


def test_after_a_killed_worker_the_run_goes_on_from_a_checkpoint(disturbed: Disturbed) -> None:
    assert disturbed.code == 0, disturbed.told
    assert gone_on(disturbed.told) == sorted(gone_on(disturbed.told))
    assert len(gone_on(disturbed.told)) == 3


def test_a_worker_that_hangs_is_named_and_the_stacks_of_the_other_are_saved(disturbed: Disturbed) -> None:
    (file,) = (disturbed.run / "hangs").iterdir()
    other = json.loads(file.read_text().partition("\n")[0])["rank"]
    assert f"NOTHING HAS MOVED FOR {HANG_S} s: rank {1 - other} gives no sign of life" in disturbed.told
    assert "Thread 0x" in file.read_text()
    assert "loop.py" in file.read_text()  # wherever it waited for the other


def test_a_worker_that_hangs_is_not_left_behind(disturbed: Disturbed) -> None:
    eventually(lambda: not train_workers())


def test_nothing_of_this_changes_a_weight_or_a_loss(undisturbed: Path, disturbed: Disturbed) -> None:
    assert losses(disturbed.run) == losses(undisturbed)
    assert weights(disturbed.run) == weights(undisturbed)
    assert content_hash(disturbed.run) == content_hash(undisturbed)


# Gradients that are not finite.


@pytest.fixture(scope="module")
def diverged(work: Path, cluster: Cluster) -> Ended:
    return fit(work, work / "diverged", "optimizer.learning_rate=1e30", "intervals.checkpoint_every_steps=1")


def test_a_run_without_finite_gradients_ends_with_its_examples_in_one_line(diverged: Ended) -> None:
    assert diverged.code == 1
    files = sorted(map(str, (diverged.run / "diverged").iterdir()))
    lines = diverged.told.splitlines()
    assert lines[-len(files) :] == files
    line = lines[-len(files) - 1]
    examples = json.loads(Path(files[0]).read_text())["example_ids"]
    assert "gradient norm is nan, after 3 skipped step(s) in a row" in line
    assert f"its examples begin with {examples[:4]}" in line
    assert "Traceback" not in diverged.told


def test_a_run_without_finite_gradients_is_not_tried_again(diverged: Ended) -> None:
    assert checkpoints(diverged.run)
    assert "going on from" not in diverged.told


def test_a_run_without_finite_gradients_publishes_nothing(diverged: Ended) -> None:
    assert not (diverged.run / "manifest.json").exists()
    assert not (diverged.run / "model").exists()


# A machine that goes.


@pytest.fixture(scope="module")
def lost_machine(work: Path, cluster: Cluster) -> Iterator[Ended]:
    """A run of one or two workers, whose second machine is switched off at the time that a notice gave."""
    run = work / "lost-machine"
    (node,) = cluster.worker_nodes

    def take_away() -> None:
        eventually(lambda: len(losses(run)) > 5)
        deadline = time.time() + 2
        drain(cluster, node.node_id, deadline)
        eventually(lambda: bool(read_notices(str(run))) and bool(checkpoints(run)))
        time.sleep(max(0.0, deadline - time.time()))
        cluster.remove_node(node, allow_graceful=False)

    yield fit(
        work,
        run,
        "max_steps=120",
        "intervals.checkpoint_every_steps=1000",
        "scaling.min_workers=1",
        "fault_tolerance={max_failures: 0, preemption_grace_s: 3}",
        deed=take_away,
    )
    cluster.add_node(num_cpus=1)


def drain(cluster: Cluster, node_id: str, deadline: float) -> None:
    """Says what a cloud says before it takes a machine away."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert GcsClient(address=cluster.address).drain_node(node_id, reason, "a test", int(deadline * 1000))[0]


def test_before_a_machine_goes_a_checkpoint_is_written_just_in_time(lost_machine: Ended) -> None:
    first = checkpoints(lost_machine.run)[0]
    assert first < 120
    told = rf"the machine of rank [01] is about to go: checkpoint of step {first} now"
    assert re.search(told, lost_machine.told), lost_machine.told


def test_without_a_machine_the_run_goes_on_with_the_workers_that_there_is_room_for(lost_machine: Ended) -> None:
    """No failure is allowed in this run: a machine that goes is none."""
    assert lost_machine.code == 0, lost_machine.told
    first = checkpoints(lost_machine.run)[0]
    assert f"going on from the checkpoint of step {first} with 1 worker(s)" in lost_machine.told
