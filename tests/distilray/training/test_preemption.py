from types import SimpleNamespace

import pytest

from distilray.training.loop import Step
from distilray.training.optimizer import Update
from distilray.training.preemption import FAILURE_DETECTION_S, PreemptionWatcher

FIRST, SECOND = (SimpleNamespace(deadline_ms=1, preempted_ranks=ranks) for ranks in ([1], [1, 3]))


@pytest.fixture
def delays():
    return []


@pytest.fixture
def create_watcher(delays):
    """Watcher that polls every second step and receives the given answers."""

    def watcher(*answers, notice=print):
        return PreemptionWatcher(every_steps=2, notice=notice, get_info=iter(answers).__next__, sleep=delays.append)

    return watcher


def test_each_preemption_is_reported_once(create_watcher):
    watcher = create_watcher(None, FIRST, FIRST, SECOND, SECOND)
    notices = {done: notice for done in range(1, 11) if (notice := watcher.poll(done))}
    assert notices == {
        4: "the machine of rank 1 is being preempted",
        8: "the machine of rank 1, 3 is being preempted",
    }


@pytest.mark.parametrize(("total", "is_saved"), [(8, True), (2, False)], ids=["during a run", "after the last step"])
def test_a_notice_requests_a_checkpoint(create_watcher, total, is_saved):
    notices = []
    step = Step(2, total, {}, [], [], Update(1.0, 1.0, False))
    create_watcher(FIRST, notice=notices.append).after_step(step)
    assert step.checkpoint_now == is_saved
    assert notices == ["the machine of rank 1 is being preempted: checkpoint of step 2 now"] * is_saved


@pytest.mark.parametrize(("answer", "expected"), [(FIRST, [FAILURE_DETECTION_S]), (None, [])], ids=["notice", "none"])
def test_an_error_is_delayed_after_a_notice_until_ray_has_noticed_the_loss(create_watcher, delays, answer, expected):
    watcher = create_watcher(answer)
    watcher.poll(2)
    with pytest.raises(RuntimeError, match="connection reset"), watcher.attribute_errors():
        raise RuntimeError("connection reset")
    assert delays == expected
