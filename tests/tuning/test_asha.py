"""ASHA across restarts: an undisturbed scheduler beside one that is begun anew, as Ray Tune does, again and again."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from pyarrow import fs
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from tuning.asha import STATE_FILE, LastingAsha

TRIALS, EVALUATIONS = 24, 9
SETTINGS = {"time_attr": "evaluation", "max_t": EVALUATIONS, "grace_period": 1, "reduction_factor": 3}
_ids = itertools.count()


def scheduler():
    found = LastingAsha(**SETTINGS)
    found.set_search_properties("best", "max")
    return found


def trial(folder, number):
    """As Ray Tune makes it: with an id that is new each time."""
    return SimpleNamespace(
        trial_id=f"id-{next(_ids)}",
        config={"sample": {"number": number, "values": {"learning_rate": number}}},
        storage=SimpleNamespace(storage_filesystem=fs.LocalFileSystem(), experiment_fs_path=str(folder)),
    )


def results(seed=1):
    """Scores of all trials in the order in which they come, of several at a time."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(TRIALS), EVALUATIONS))
    counts = dict.fromkeys(range(TRIALS), 0)
    for number in order.tolist():
        counts[number] += 1
        yield number, {"evaluation": counts[number], "best": float(rng.random())}


def decisions(folder, *, restarts):
    """The decision on each result of a trial that goes on; at each restart everything but the folder is new."""
    found, stopped, asha = [], set(), scheduler()
    trials = {number: trial(folder, number) for number in range(TRIALS)}
    for one in trials.values():
        asha.on_trial_add(None, one)
    for place, (number, result) in enumerate(results()):
        if place in restarts:
            asha = scheduler()
            trials = {number: trial(folder, number) for number in range(TRIALS)}
            for one in trials.values():
                asha.on_trial_add(None, one)
        if number in stopped:
            continue
        decision = asha.on_trial_result(None, trials[number], result)
        found.append((number, result["evaluation"], decision))
        if decision == TrialScheduler.STOP:
            stopped.add(number)
    return found


def test_decisions_after_restarts_are_those_of_an_undisturbed_run(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    undisturbed = decisions(tmp_path / "one", restarts=())
    restarted = decisions(tmp_path / "two", restarts=(1, 30, 31, 90, 150))
    assert undisturbed == restarted
    assert {decision for _, _, decision in undisturbed} == {TrialScheduler.STOP, TrialScheduler.CONTINUE}


def test_a_scheduler_without_its_state_decides_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(LastingAsha, "_save", lambda self, trial: None)
    assert decisions(tmp_path, restarts=()) != decisions(tmp_path, restarts=(1, 30, 31, 90, 150))


def test_decisions_are_those_of_ray_tunes_own_asha(tmp_path):
    own = ASHAScheduler(**SETTINGS)
    own.set_search_properties("best", "max")
    trials = {number: SimpleNamespace(trial_id=str(number)) for number in range(TRIALS)}
    for one in trials.values():
        own.on_trial_add(None, one)
    found, stopped = [], set()
    for number, result in results():
        if number in stopped:
            continue
        decision = own.on_trial_result(None, trials[number], result)
        found.append((number, result["evaluation"], decision))
        if decision == TrialScheduler.STOP:
            stopped.add(number)
    last = [entry for entry in found if entry[1] == EVALUATIONS]
    ours = [entry for entry in decisions(tmp_path, restarts=()) if entry[1] < EVALUATIONS]
    assert ours == [entry for entry in found if entry not in last]


def test_a_trial_that_was_to_stop_is_told_so_again_when_it_repeats_its_results(tmp_path):
    first = scheduler()
    for number, score in enumerate((0.9, 0.8, 0.1)):
        one = trial(tmp_path, number)
        first.on_trial_add(None, one)
        decision = first.on_trial_result(None, one, {"evaluation": 1, "best": score})
    assert decision == TrialScheduler.STOP
    again, repeated = scheduler(), trial(tmp_path, 2)
    again.on_trial_add(None, repeated)
    assert again.on_trial_result(None, repeated, {"evaluation": 1, "best": 0.1}) == TrialScheduler.STOP


def test_a_repeated_result_counts_once(tmp_path):
    asha, one = scheduler(), trial(tmp_path, 0)
    asha.on_trial_add(None, one)
    for _ in range(3):
        asha.on_trial_result(None, one, {"evaluation": 1, "best": 0.5})
    lowest = next(scores for milestone, scores in reversed(asha._brackets[0]._rungs) if milestone == 1)
    assert list(lowest.values()) == [0.5]


@pytest.mark.parametrize("torn", [False, True])
def test_the_state_that_a_kill_has_left_is_the_one_before_or_the_one_after(tmp_path, torn):
    asha, one = scheduler(), trial(tmp_path, 0)
    asha.on_trial_add(None, one)
    asha.on_trial_result(None, one, {"evaluation": 1, "best": 0.5})
    if torn:
        (tmp_path / f"{STATE_FILE}.part").write_bytes(b"half of it")
    again = scheduler()
    again.on_trial_add(None, trial(tmp_path, 0))
    assert again._brackets[0]._rungs == asha._brackets[0]._rungs
