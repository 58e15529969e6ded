import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from distilray.training import watchdog
from distilray.training.watchdog import Watchdog

TIMEOUT_S = 0.3
STEP = [(3, 0, "data"), (3, 0, "forward"), (3, 0, "backward"), (3, 1, "data"), (3, 1, "forward"), (3, 1, "backward")]
UPDATED = [*STEP, (3, 0, "update")]
SAVED = [*UPDATED, (4, 0, "checkpoint")]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    """Wait for silent workers for a shorter time than in production."""
    monkeypatch.setattr(watchdog, "_MIN_WAIT_S", TIMEOUT_S)


def create(folder, *, rank=0, num_workers=1, notice=print, exit_process=lambda: None):
    settings = {"timeout_s": TIMEOUT_S, "notice": notice, "exit_process": exit_process}
    return Watchdog(str(folder), rank=rank, num_workers=num_workers, **settings)


@pytest.fixture
def hang(tmp_path):
    """Let workers enter some phases and then hang until all have exited; returns the notices."""

    def run(phases, *, num_workers=None, folder=tmp_path):
        notices, exits = [], threading.Semaphore(0)
        with ExitStack() as stack:
            for rank, entered in phases.items():
                settings = {"num_workers": num_workers or len(phases), "notice": notices.append}
                worker = stack.enter_context(create(folder, rank=rank, exit_process=exits.release, **settings))
                for phase in entered:
                    worker.on_phase(*phase)
            assert all(exits.acquire(timeout=20) for _ in phases)
        return notices

    return run


@pytest.mark.parametrize(
    ("phases", "hanging"),
    [
        ({0: STEP, 1: STEP[:1], 2: STEP}, ["rank 1 hangs in 'data' of step 3"]),
        ({0: STEP[:2], 1: STEP, 2: STEP[:2]}, [f"rank {rank} hangs in 'forward' of step 3" for rank in (0, 2)]),
        ({0: UPDATED, 1: STEP}, ["rank 1 hangs in 'backward' of step 3"]),
        ({0: SAVED, 1: [*SAVED, (4, 0, "data")]}, ["rank 0 hangs in 'checkpoint' of step 4"]),
        ({0: STEP, 1: STEP, 2: STEP}, ["all 3 workers hang in 'backward' of step 3"]),
    ],
    ids=["in data", "two of three", "before the update", "in a checkpoint", "all"],
)
def test_the_workers_behind_the_others_are_named_in_one_notice(hang, tmp_path, phases, hanging):
    (notice,) = hang(phases)
    head, *details = notice.split(" on ")
    assert head == f"NO PROGRESS FOR {TIMEOUT_S} s: {hanging[0]}"
    assert [detail.partition("), ")[2] for detail in details[:-1]] == hanging[1:]
    assert details[-1].endswith(f"; stacks in {tmp_path}, restarting the workers")
    for rank, entered in phases.items():
        record, _, stacks = (tmp_path / f"rank-{rank}.txt").read_text().partition("\n\n")
        values = json.loads(record)
        assert (values["step"], values["micro_step"], values["phase"]) == entered[-1]
        assert Path(__file__).name in stacks
        assert "in acquire" in stacks or "in run" in stacks


def test_a_worker_that_does_not_respond_is_named_in_spite_of_an_earlier_report(hang):
    hang({0: STEP, 1: STEP})
    (notice,) = hang({0: STEP}, num_workers=2)
    assert notice.startswith(f"NO PROGRESS FOR {TIMEOUT_S} s: rank 1 is not responding")


def test_a_worker_that_cannot_write_its_report_exits(hang, tmp_path):
    (tmp_path / "file").write_text("a file at the path of the folder")
    assert hang({0: STEP}, folder=tmp_path / "file") == []


@pytest.mark.parametrize("report", [lambda worker: worker.on_phase(0, 0, "data"), Watchdog.heartbeat, None])
def test_neither_progress_nor_the_end_of_the_block_is_a_hang(tmp_path, report):
    exits = []
    with create(tmp_path, exit_process=lambda: exits.append(1)) as worker:
        until = time.monotonic() + 3 * TIMEOUT_S
        while report is not None and time.monotonic() < until:
            report(worker)
            time.sleep(0.01)
    if report is None:
        time.sleep(2 * TIMEOUT_S)
    assert exits == []
