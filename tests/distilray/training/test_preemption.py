import contextlib
from types import SimpleNamespace

import pytest

from distilray.training.preemption import FAILURE_DETECTION_S, PreemptionWatcher

FIRST, SECOND = (SimpleNamespace(deadline_ms=1, preempted_ranks=ranks) for ranks in ([1], [1, 3]))


@pytest.fixture
def slept():
    return []


@pytest.fixture
def machines(slept):
    """Watcher that polls every second step and receives the notices of a list."""
    return lambda *answers: PreemptionWatcher(
        every_steps=2, notice=print, get_info=iter(answers).__next__, sleep=slept.append
    )


def test_a_preempted_machine_is_reported_once(machines):
    known = machines(None, FIRST, FIRST, FIRST)
    found = [known.poll(done) for done in range(1, 9)]
    assert found == [None, None, None, "the machine of rank 1 is being preempted", None, None, None, None]


def test_another_preempted_machine_is_reported(machines):
    known = machines(FIRST, SECOND)
    assert known.poll(2) == "the machine of rank 1 is being preempted"
    assert known.poll(4) == "the machine of rank 1, 3 is being preempted"


def fails(known):
    with contextlib.suppress(RuntimeError), known.attribute_errors():
        raise RuntimeError("connection reset")


def test_an_error_after_a_notice_waits_until_ray_has_noticed_the_loss(machines, slept):
    known = machines(FIRST)
    known.poll(2)
    fails(known)
    assert slept == [FAILURE_DETECTION_S]


def test_an_error_without_a_notice_is_raised_immediately(machines, slept):
    known = machines(None)
    known.poll(2)
    fails(known)
    assert slept == []


def test_a_delayed_error_is_raised(machines):
    known = machines(FIRST)
    known.poll(2)
    with pytest.raises(RuntimeError, match="connection reset"), known.attribute_errors():
        raise RuntimeError("connection reset")
