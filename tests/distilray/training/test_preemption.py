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
    """One that is asked every second step and learns what a list says."""
    return lambda *answers: PreemptionWatcher(
        every_steps=2, notice=print, ask=iter(answers).__next__, sleep=slept.append
    )


def test_a_machine_that_is_about_to_go_is_news_once(machines):
    known = machines(None, FIRST, FIRST, FIRST)
    found = [known.poll(done) for done in range(1, 9)]
    assert found == [None, None, None, "the machine of rank 1 is about to go", None, None, None, None]


def test_a_further_machine_is_news(machines):
    known = machines(FIRST, SECOND)
    assert known.poll(2) == "the machine of rank 1 is about to go"
    assert known.poll(4) == "the machine of rank 1, 3 is about to go"


def fails(known):
    with contextlib.suppress(RuntimeError), known.attribute_errors():
        raise RuntimeError("connection reset")


def test_an_error_after_the_news_waits_until_the_machine_is_missed(machines, slept):
    known = machines(FIRST)
    known.poll(2)
    fails(known)
    assert slept == [FAILURE_DETECTION_S]


def test_an_error_without_news_is_raised_at_once(machines, slept):
    known = machines(None)
    known.poll(2)
    fails(known)
    assert slept == []


def test_an_error_is_raised_even_so(machines):
    known = machines(FIRST)
    known.poll(2)
    with pytest.raises(RuntimeError, match="connection reset"), known.attribute_errors():
        raise RuntimeError("connection reset")
