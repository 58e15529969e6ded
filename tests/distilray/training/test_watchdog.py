import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from distilray.training import watchdog
from distilray.training.watchdog import Watchdog

TIMEOUT_S = 0.3
STEP = [(3, 0, "data"), (3, 0, "forward"), (3, 0, "backward"), (3, 1, "data"), (3, 1, "forward"), (3, 1, "backward")]
UPDATED = [*STEP, (3, 0, "update")]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Wait for silent workers for a shorter time than in production."""
    monkeypatch.setattr(watchdog, "_MIN_WAIT_S", TIMEOUT_S)


@pytest.fixture
def hang(tmp_path):
    """Let workers enter some phases and then hang; returns the notices and the ranks that exited."""

    def run(phases, *, num_workers=None, folder=tmp_path):
        notices, ended = [], []
        with ExitStack() as stack:
            for rank, passed in phases.items():
                worker = watch(
                    folder, rank, num_workers or len(phases), notices.append, lambda rank=rank: ended.append(rank)
                )
                stack.enter_context(worker)
                for phase in passed:
                    worker.on_phase(*phase)
            wait(lambda: len(ended) == len(phases))
        return notices, sorted(ended)

    return run


def watch(folder, rank, num_workers, notice, end):
    return Watchdog(
        str(folder), rank=rank, num_workers=num_workers, timeout_s=TIMEOUT_S, notice=notice, exit_process=end
    )


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_worker_that_the_others_wait_for_is_named(hang):
    notices, _ = hang({0: STEP, 1: STEP[:1], 2: STEP})
    assert "rank 1 hangs in 'data' of step 3" in notices[0]
    assert "rank 0" not in notices[0]


def test_a_worker_behind_one_that_does_its_update_is_named(hang):
    notices, _ = hang({0: UPDATED, 1: STEP})
    assert "rank 1 hangs in 'backward' of step 3" in notices[0]
    assert "rank 0" not in notices[0]


def test_a_worker_whose_checkpoint_hangs_is_behind_one_that_continues(hang):
    done = [*UPDATED, (4, 0, "checkpoint")]
    notices, _ = hang({0: done, 1: [*done, (4, 0, "data")]})
    assert "rank 0 hangs in 'checkpoint' of step 4" in notices[0]
    assert "rank 1" not in notices[0]


def test_workers_that_hang_in_the_same_phase_are_reported_together(hang):
    notices, _ = hang({0: STEP, 1: STEP, 2: STEP})
    assert "all 3 workers hang in 'backward' of step 3" in notices[0]


def test_two_of_three_workers_that_hang_are_both_named(hang):
    notices, _ = hang({0: STEP[:2], 1: STEP, 2: STEP[:2]})
    assert "rank 0 hangs in 'forward'" in notices[0]
    assert "rank 2 hangs in 'forward'" in notices[0]


def test_a_worker_that_does_not_respond_is_named(hang):
    notices, _ = hang({0: STEP, 2: STEP}, num_workers=3)
    assert notices[0].startswith(f"NO PROGRESS FOR {TIMEOUT_S} s: rank 1 is not responding")


def test_reports_of_an_earlier_attempt_are_ignored(hang):
    hang({0: STEP, 1: STEP})
    notices, _ = hang({0: STEP}, num_workers=2)
    assert "rank 1 is not responding" in notices[0]


def test_the_diagnosis_is_published_once_and_all_workers_end(hang):
    notices, ended = hang({0: STEP, 1: STEP[:2], 2: STEP})
    assert len(notices) == 1
    assert ended == [0, 1, 2]


def test_each_worker_writes_its_phase_and_its_stacks(hang, tmp_path):
    hang({0: STEP, 1: STEP[:2]})
    for rank, phase in ((0, STEP[-1]), (1, STEP[1])):
        record, _, stacks = (tmp_path / f"rank-{rank}.txt").read_text().partition("\n\n")
        found = json.loads(record)
        assert (found["step"], found["micro_step"], found["phase"]) == phase
        assert Path(__file__).name in stacks
        assert "in wait" in stacks


def test_a_worker_that_cannot_write_its_report_ends_too(hang, tmp_path):
    (tmp_path / "file").write_text("in the way of the folder")
    notices, ended = hang({0: STEP}, folder=tmp_path / "file")
    assert notices == []
    assert ended == [0]


@pytest.mark.parametrize("sign", [lambda worker: worker.on_phase(0, 0, "data"), Watchdog.heartbeat])
def test_a_worker_that_makes_progress_is_not_reported(tmp_path, sign):
    ended = []
    with watch(tmp_path, 0, 1, print, lambda: ended.append(0)) as worker:
        until = time.monotonic() + 4 * TIMEOUT_S
        while time.monotonic() < until:
            sign(worker)
            time.sleep(0.01)
    assert ended == []


def test_the_watchdog_stops_after_the_block(tmp_path):
    ended = []
    with watch(tmp_path, 0, 1, print, lambda: ended.append(0)):
        pass
    time.sleep(2 * TIMEOUT_S)
    assert ended == []
