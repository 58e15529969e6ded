import threading
from types import SimpleNamespace

import pytest
import torch

from distilray.training.loop import Step
from distilray.training.optimizer import Update
from distilray.training.preemption import FAILURE_DETECTION_S, PreemptionWatcher

FIRST, SECOND = (SimpleNamespace(deadline_ms=1, preempted_ranks=ranks) for ranks in ([1], [1, 3]))


@pytest.fixture
def delays():
    return []


@pytest.fixture
def create_watcher(delays):
    """Watcher that polls with every second update and receives the given answers."""

    def watcher(*answers, notice=print):
        return PreemptionWatcher(every_steps=2, notice=notice, get_info=iter(answers).__next__, sleep=delays.append)

    return watcher


def train_step(watcher, done, total=100):
    """Call the hook as the loop does; return whether it requests a checkpoint."""
    for phase in ("data", "forward", "backward", "update", "preemption"):
        watcher.on_phase(done - 1, 1, phase)
    step = Step(done, total, {}, None, [], torch.empty(0), Update(1.0, 1.0, False))
    watcher.after_step(step)
    return step.checkpoint_now


def test_each_preemption_requests_one_checkpoint(create_watcher):
    notices = []
    watcher = create_watcher(None, FIRST, FIRST, SECOND, SECOND, notice=notices.append)
    assert [done for done in range(1, 11) if train_step(watcher, done)] == [4, 8]
    assert notices == [
        "the machine of rank 1 is being preempted: checkpoint of step 4 now",
        "the machine of rank 1, 3 is being preempted: checkpoint of step 8 now",
    ]


def test_the_last_step_needs_no_request(create_watcher):
    assert not train_step(create_watcher(FIRST), 2, total=2)


def test_a_poll_runs_during_the_update(create_watcher):
    asked, answered = threading.Event(), threading.Event()

    def get_info():
        asked.set()
        assert answered.wait(10)

    watcher = PreemptionWatcher(every_steps=1, notice=print, get_info=get_info)
    watcher.on_phase(0, 1, "update")
    assert asked.wait(10)
    answered.set()


def test_an_error_of_a_poll_ends_training(create_watcher):
    def fail():
        raise ConnectionError("no answer")

    with pytest.raises(ConnectionError, match="no answer"):
        train_step(PreemptionWatcher(every_steps=1, notice=print, get_info=fail), 1)


@pytest.mark.parametrize(("answer", "expected"), [(FIRST, [FAILURE_DETECTION_S]), (None, [])], ids=["notice", "none"])
def test_an_error_is_delayed_after_a_notice_until_ray_has_noticed_the_loss(create_watcher, delays, answer, expected):
    watcher = create_watcher(answer)
    train_step(watcher, 2)
    with pytest.raises(RuntimeError, match="connection reset"), watcher.attribute_errors():
        raise RuntimeError("connection reset")
    assert delays == expected
