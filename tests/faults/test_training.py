"""Training under faults: killed workers and drivers, broken checkpoints, hangs, full disks, machines that go."""

import contextlib
import io
import itertools
import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from distilray.distillation.trainer import START_TIMEOUT
from distilray.runtime.reporting.metrics import read_metrics
from distilray.runtime.reporting.notices import read_notices
from distilray.runtime.session import ENVIRONMENT
from jobs import distill
from tests.distilray.tiny_line import write_recipe, write_shards, write_teacher, write_tokenizer
from tests.faults.processes import LIMIT_S, eventually, start, train_workers, wait_for

pytestmark = pytest.mark.slow

STEPS, RHYTHM = 24, 4  # optimiser steps of a run, and between two of its checkpoints


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, and what it told on stderr."""

    run: Path
    code: int
    told: str


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a teacher, and a recipe with dropout for two workers."""
    folder = tmp_path_factory.mktemp("training")
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_shards(folder / "shards", tokenizer_dir)
    write_teacher(folder / "teacher/model", tokenizer_dir)
    write_recipe(folder, **values(folder))
    return folder


def values(folder: Path) -> dict[str, Any]:
    return {
        "run_dir": str(folder / "undisturbed"),
        "shards_dir": str(folder / "shards"),
        "teacher_dir": str(folder / "teacher"),
        "max_steps": STEPS,
        "batch_size": 24,
        "micro_batch_size": 3,
        "precision": "fp32",
        "dropout": 0.1,
        "optimizer": {"learning_rate": 1e-3},
        "scaling": {"num_workers": 2, "use_gpu": False, "cpus_per_worker": 1},
        "rhythm": {"log_every_steps": 1, "checkpoint_every_steps": RHYTHM},
        "ray": {"num_cpus": 2},
    }


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


def fit(work: Path, run: Path, *overrides: str, deed: Callable[[], None] | None = None) -> Ended:
    """Runs the job in this process; in a thread beside it a deed is done to it."""
    arguments = ["--recipe", str(work / "recipe.yaml"), f"run_dir={run}", *overrides]
    told = io.StringIO()
    with ThreadPoolExecutor(1) as beside, contextlib.redirect_stderr(told):
        doing = beside.submit(deed) if deed else None
        code = distill.main(arguments)
    if doing is not None:
        doing.result()
    return Ended(run, code, told.getvalue())


def checkpoints(run: Path) -> list[int]:
    return sorted(int(file.parent.name.removeprefix("step-")) for file in run.glob("checkpoints/step-*/state.json"))


def workers_of(run: Path) -> list[int]:
    """The two workers, as soon as there is a checkpoint to go on from."""
    eventually(lambda: bool(checkpoints(run)))
    found = train_workers()
    assert len(found) == 2
    return found


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(str(run / "metrics.jsonl"))]


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def content_hash(run: Path) -> str:
    return str(json.loads((run / "manifest.json").read_text())["content_hash"])


@pytest.fixture(scope="module")
def undisturbed(work: Path, cluster: Cluster) -> Path:
    ended = fit(work, work / "undisturbed")
    assert ended.code == 0, ended.told
    return ended.run


# A worker that is killed.


@pytest.fixture(scope="module")
def lost_worker(work: Path, cluster: Cluster) -> Ended:
    run = work / "lost-worker"
    return fit(work, run, deed=lambda: os.kill(workers_of(run)[1], signal.SIGKILL))


def test_after_a_killed_worker_the_run_goes_on_from_a_checkpoint(lost_worker: Ended) -> None:
    assert lost_worker.code == 0, lost_worker.told
    assert "going on from the checkpoint of step" in lost_worker.told


def test_a_killed_worker_changes_no_weight_and_no_loss(undisturbed: Path, lost_worker: Ended) -> None:
    assert losses(lost_worker.run) == losses(undisturbed)
    assert weights(lost_worker.run) == weights(undisturbed)


# The driver that is killed, with all that it has started.


@pytest.fixture(scope="module")
def lost_driver(work: Path, cluster: Cluster, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Killed after its first checkpoint, and started again."""
    run = work / "lost-driver"
    recipe = write_recipe(tmp_path_factory.mktemp("recipe"), **values(work) | {"run_dir": str(run)})
    process = start(root, "distill", Path(recipe))
    wait_for(lambda: bool(checkpoints(run)), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)
    assert not (run / "manifest.json").exists()
    return fit(work, run)


def test_after_a_killed_driver_the_same_command_goes_on_from_a_checkpoint(lost_driver: Ended) -> None:
    assert lost_driver.code == 0, lost_driver.told
    rows = read_metrics(str(lost_driver.run / "metrics.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    # The pause between two steps tells where the run went on: the new driver had to start workers first.
    pauses = [after["time"] - before["time"] for before, after in itertools.pairwise(rows)]
    assert (1 + pauses.index(max(pauses))) % RHYTHM == 0


def test_a_killed_driver_changes_no_weight_and_no_loss(undisturbed: Path, lost_driver: Ended) -> None:
    assert losses(lost_driver.run) == losses(undisturbed)
    assert weights(lost_driver.run) == weights(undisturbed)
    assert content_hash(lost_driver.run) == content_hash(undisturbed)


# A worker that hangs.


@pytest.fixture(scope="module")
def hung_worker(work: Path, cluster: Cluster) -> Iterator[Ended]:
    run, stopped = work / "hung-worker", []

    def stop() -> None:
        stopped.append(workers_of(run)[1])
        os.kill(stopped[0], signal.SIGSTOP)

    yield fit(work, run, "faults.hang_timeout_s=3", deed=stop)
    if stopped[0] in train_workers():
        os.kill(stopped[0], signal.SIGKILL)


def test_a_worker_that_hangs_is_named_and_the_stacks_of_the_other_are_saved(hung_worker: Ended) -> None:
    (file,) = (hung_worker.run / "hangs").iterdir()
    other = json.loads(file.read_text().partition("\n")[0])["rank"]
    assert f"NOTHING HAS MOVED FOR 3 s: rank {1 - other} gives no sign of life" in hung_worker.told
    assert "Thread 0x" in file.read_text()
    assert "accumulation.py" in file.read_text()


def test_a_worker_that_hangs_is_not_left_behind(hung_worker: Ended) -> None:
    eventually(lambda: not train_workers())


def test_a_worker_that_hangs_changes_no_weight_and_no_loss(undisturbed: Path, hung_worker: Ended) -> None:
    assert hung_worker.code == 0, hung_worker.told
    assert losses(hung_worker.run) == losses(undisturbed)
    assert weights(hung_worker.run) == weights(undisturbed)


# Gradients that are not finite.


@pytest.fixture(scope="module")
def diverged(work: Path, cluster: Cluster) -> Ended:
    return fit(work, work / "diverged", "optimizer.learning_rate=1e30", "rhythm.checkpoint_every_steps=1")


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


# A disk that is full; and when there is space again, checkpoints that are not what was saved.


@pytest.fixture(scope="module")
def full_disk(work: Path, cluster: Cluster) -> Ended:
    """After its third checkpoint no file of a worker may grow beyond what its small files need."""
    run = work / "full-disk"

    def fill() -> None:
        eventually(lambda: len(checkpoints(run)) == 3)
        for pid in workers_of(run):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (60_000, 60_000))

    return fit(work, run, deed=fill)


def test_a_full_disk_is_one_line_that_names_the_checkpoint(full_disk: Ended) -> None:
    assert full_disk.code == 2, full_disk.told
    assert len([line for line in full_disk.told.splitlines() if "cannot be written" in line]) == 1
    last = full_disk.told.splitlines()[-1]
    assert "/checkpoints/step-" in last
    assert last.endswith("free space or choose another folder")


def test_a_full_disk_is_not_tried_again_and_publishes_nothing(full_disk: Ended) -> None:
    assert "going on from" not in full_disk.told
    assert not (full_disk.run / "manifest.json").exists()


@dataclass(frozen=True)
class Broken(Ended):
    """A run with broken checkpoints that went on: the steps of its checkpoints before, newest first."""

    before: list[int]


@pytest.fixture(scope="module")
def broken_checkpoints(work: Path, full_disk: Ended) -> Broken:
    """The same command when there is space; its newest checkpoint is torn, and in the one before a bit is flipped."""
    run = Path(shutil.copytree(full_disk.run, work / "broken-checkpoints"))
    before = checkpoints(run)[::-1]
    torn, flipped = (run / f"checkpoints/step-{step:07d}/model.safetensors" for step in before[:2])
    torn.write_bytes(torn.read_bytes()[:-1000])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    ended = fit(work, run)
    return Broken(run, ended.code, ended.told, before)


def test_when_there_is_space_the_same_command_goes_on(broken_checkpoints: Broken) -> None:
    assert broken_checkpoints.code == 0, broken_checkpoints.told


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole_and_says_so(broken_checkpoints: Broken) -> None:
    torn, flipped, whole = broken_checkpoints.before
    for step in (torn, flipped):
        assert f"step-{step:07d} IS BROKEN (model.safetensors" in broken_checkpoints.told
    assert f"going on from the checkpoint of step {whole} " in broken_checkpoints.told


def test_a_full_disk_and_broken_checkpoints_change_no_weight_and_no_loss(
    undisturbed: Path, broken_checkpoints: Broken
) -> None:
    assert losses(broken_checkpoints.run) == losses(undisturbed)
    assert weights(broken_checkpoints.run) == weights(undisturbed)


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
        "rhythm.checkpoint_every_steps=1000",
        "scaling.min_workers=1",
        "faults={max_failures: 0, preemption_grace_s: 3}",
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
