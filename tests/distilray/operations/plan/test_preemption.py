import numpy as np
import pytest

from distilray.errors import InputError
from distilray.operations.plan.preemption import Preemption, run_times

WORK_S, INTERVAL_S = 36_000.0, 600.0


def times(rate, *, has_notice=False, restart_s=60.0, machines=1, trials=400, seed=3):
    return run_times(
        WORK_S,
        INTERVAL_S,
        machines=machines,
        preemption=Preemption(rate, restart_s, has_notice),
        trials=trials,
        rng=np.random.default_rng(seed),
    )


def test_without_preemptions_nothing_is_lost():
    found = times(0.0)
    assert (found.seconds == WORK_S).all()
    assert not found.preemptions.any()
    assert not found.lost_s.any()


def test_a_notice_in_time_costs_the_restarts_and_no_steps():
    found = times(0.5, has_notice=True)
    assert not found.lost_s.any()
    assert found.seconds == pytest.approx(WORK_S + 60.0 * found.preemptions)


def test_without_a_notice_about_half_an_interval_is_repeated_each_time():
    found = times(0.5)
    assert found.seconds == pytest.approx(WORK_S + 60.0 * found.preemptions + found.lost_s)
    assert found.lost_s.sum() / found.preemptions.sum() == pytest.approx(INTERVAL_S / 2, rel=0.05)
    assert (found.lost_s <= INTERVAL_S * found.preemptions).all()


def test_preemptions_are_as_many_as_machines_and_hours_say():
    found = times(0.2, has_notice=True, restart_s=0.0, machines=3)
    assert found.preemptions.mean() == pytest.approx(0.2 * 3 * WORK_S / 3600, rel=0.1)


def test_the_same_generator_gives_the_same_runs():
    assert (times(0.5).seconds == times(0.5).seconds).all()
    assert (times(0.5).seconds != times(0.5, seed=4).seconds).any()


@pytest.mark.parametrize(("rate", "has_notice"), [(1e6, True), (30.0, False)])
def test_a_run_that_would_not_end_is_refused(rate, has_notice):
    with pytest.raises(InputError, match=r"disturbance\.preemptions_per_machine_hour"):
        times(rate, has_notice=has_notice)
