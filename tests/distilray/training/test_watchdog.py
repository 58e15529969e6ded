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
    """For a worker that is silent it waits shorter than in a real run."""
    monkeypatch.setattr(watchdog, "_PATIENCE_S", TIMEOUT_S)


@pytest.fixture
def hang(tmp_path):
    """Lets workers come through some places and then stand still; returns what was told and who was ended."""

    def run(places, *, num_workers=None, folder=tmp_path):
        told, ended = [], []
        with ExitStack() as stack:
            for rank, passed in places.items():
                worker = watch(
                    folder, rank, num_workers or len(places), told.append, lambda rank=rank: ended.append(rank)
                )
                stack.enter_context(worker)
                for place in passed:
                    worker.on_phase(*place)
            wait(lambda: len(ended) == len(places))
        return told, sorted(ended)

    return run


def watch(folder, rank, num_workers, notice, end):
    return Watchdog(str(folder), rank=rank, num_workers=num_workers, timeout_s=TIMEOUT_S, notice=notice, end=end)


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_worker_that_the_others_wait_for_is_named(hang):
    told, _ = hang({0: STEP, 1: STEP[:1], 2: STEP})
    assert "rank 1 hangs in 'data' of step 3" in told[0]
    assert "rank 0" not in told[0]


def test_a_worker_behind_one_that_does_its_update_is_named(hang):
    told, _ = hang({0: UPDATED, 1: STEP})
    assert "rank 1 hangs in 'backward' of step 3" in told[0]
    assert "rank 0" not in told[0]


def test_a_worker_whose_checkpoint_hangs_is_behind_one_that_goes_on(hang):
    done = [*UPDATED, (4, 0, "checkpoint")]
    told, _ = hang({0: done, 1: [*done, (4, 0, "data")]})
    assert "rank 0 hangs in 'checkpoint' of step 4" in told[0]
    assert "rank 1" not in told[0]


def test_workers_that_hang_at_the_same_place_are_told_together(hang):
    told, _ = hang({0: STEP, 1: STEP, 2: STEP})
    assert "all 3 workers hang at the same place, 'backward' of step 3" in told[0]


def test_two_of_three_workers_that_hang_are_both_named(hang):
    told, _ = hang({0: STEP[:2], 1: STEP, 2: STEP[:2]})
    assert "rank 0 hangs in 'forward'" in told[0]
    assert "rank 2 hangs in 'forward'" in told[0]


def test_a_worker_without_a_sign_of_life_is_named(hang):
    told, _ = hang({0: STEP, 2: STEP}, num_workers=3)
    assert told[0].startswith(f"NOTHING HAS MOVED FOR {TIMEOUT_S} s: rank 1 gives no sign of life")


def test_what_an_earlier_attempt_has_written_is_no_sign_of_life(hang):
    hang({0: STEP, 1: STEP})
    told, _ = hang({0: STEP}, num_workers=2)
    assert "rank 1 gives no sign of life" in told[0]


def test_the_verdict_is_told_once_and_all_workers_end(hang):
    told, ended = hang({0: STEP, 1: STEP[:2], 2: STEP})
    assert len(told) == 1
    assert ended == [0, 1, 2]


def test_each_worker_leaves_its_place_and_its_stacks(hang, tmp_path):
    hang({0: STEP, 1: STEP[:2]})
    for rank, place in ((0, STEP[-1]), (1, STEP[1])):
        record, _, stacks = (tmp_path / f"rank-{rank}.txt").read_text().partition("\n\n")
        found = json.loads(record)
        assert (found["step"], found["micro_step"], found["phase"]) == place
        assert Path(__file__).name in stacks
        assert "in wait" in stacks


def test_a_worker_that_cannot_write_what_it_found_ends_too(hang, tmp_path):
    (tmp_path / "file").write_text("in the way of the folder")
    told, ended = hang({0: STEP}, folder=tmp_path / "file")
    assert told == []
    assert ended == [0]


@pytest.mark.parametrize("sign", [lambda worker: worker.on_phase(0, 0, "data"), Watchdog.heartbeat])
def test_a_worker_that_moves_is_let_alone(tmp_path, sign):
    ended = []
    with watch(tmp_path, 0, 1, print, lambda: ended.append(0)) as worker:
        until = time.monotonic() + 4 * TIMEOUT_S
        while time.monotonic() < until:
            sign(worker)
            time.sleep(0.01)
    assert ended == []


def test_nothing_is_watched_after_the_block(tmp_path):
    ended = []
    with watch(tmp_path, 0, 1, print, lambda: ended.append(0)):
        pass
    time.sleep(2 * TIMEOUT_S)
    assert ended == []
