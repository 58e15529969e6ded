import numpy as np
import pytest

from distilray.errors import InputError
from distilray.operations.plan.scaling import Preemption, run_times

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


def test_without_preemptions_a_run_takes_its_work():
    seconds, preemptions = times(0.0)
    assert (seconds == WORK_S).all()
    assert not preemptions.any()


def test_a_notice_in_time_costs_the_restarts_and_no_steps():
    seconds, preemptions = times(0.5, has_notice=True)
    assert seconds == pytest.approx(WORK_S + 60.0 * preemptions)


def test_without_a_notice_about_half_an_interval_is_repeated_each_time():
    seconds, preemptions = times(0.5)
    repeated = seconds - WORK_S - 60.0 * preemptions
    assert repeated.sum() / preemptions.sum() == pytest.approx(INTERVAL_S / 2, rel=0.05)
    assert (repeated <= INTERVAL_S * preemptions + 1e-6).all()


def test_preemptions_are_as_many_as_machines_and_hours_say():
    _, preemptions = times(0.2, has_notice=True, restart_s=0.0, machines=3)
    assert preemptions.mean() == pytest.approx(0.2 * 3 * WORK_S / 3600, rel=0.1)


def test_the_same_generator_gives_the_same_runs():
    assert (times(0.5)[0] == times(0.5)[0]).all()
    assert (times(0.5)[0] != times(0.5, seed=4)[0]).any()


@pytest.mark.parametrize(("rate", "has_notice"), [(1e6, True), (30.0, False)])
def test_a_run_that_would_not_end_is_refused(rate, has_notice):
    with pytest.raises(InputError, match=r"disturbance\.preemptions_per_machine_hour"):
        times(rate, has_notice=has_notice)
