"""ASHA across restarts: compare an uninterrupted scheduler with one that is restarted repeatedly, as by Ray Tune."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from pyarrow import fs
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from distilray.config.glue import TaskConfig
from tuning.asha import STATE_FILE, ResumableASHA

TRIALS, EVALUATIONS = 24, 9
SETTINGS = {"time_attr": "evaluation", "max_t": EVALUATIONS, "grace_period": 1, "reduction_factor": 3}
_ids = itertools.count()


def scheduler(**changes):
    asha = ResumableASHA(**{**SETTINGS, "settings": TaskConfig(epochs=EVALUATIONS), **changes})
    asha.set_search_properties("best", "max")
    return asha


def trial(folder, number, **values):
    """Return a trial with a new id, as Ray Tune creates it."""
    return SimpleNamespace(
        trial_id=f"id-{next(_ids)}",
        config={"sample": {"number": number, "values": {"learning_rate": number, **values}}},
        storage=SimpleNamespace(storage_filesystem=fs.LocalFileSystem(), experiment_fs_path=str(folder)),
    )


def results(seed=1):
    """Yield the results of concurrent trials in random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(TRIALS), EVALUATIONS))
    counts = dict.fromkeys(range(TRIALS), 0)
    for number in order.tolist():
        counts[number] += 1
        yield number, {"evaluation": counts[number], "best": float(rng.random())}


def decisions(folder, *, restarts):
    """Return the decision on each result of running trials; a restart keeps only the folder."""
    decided, stopped, asha = [], set(), scheduler()
    trials = {number: trial(folder, number) for number in range(TRIALS)}
    for one in trials.values():
        asha.on_trial_add(None, one)
    for index, (number, result) in enumerate(results()):
        if index in restarts:
            asha = scheduler()
            trials = {number: trial(folder, number) for number in range(TRIALS)}
            for one in trials.values():
                asha.on_trial_add(None, one)
        if number in stopped:
            continue
        decision = asha.on_trial_result(None, trials[number], result)
        decided.append((number, result["evaluation"], decision))
        if decision == TrialScheduler.STOP:
            stopped.add(number)
    return decided


def test_decisions_after_restarts_are_those_of_an_undisturbed_run(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    undisturbed = decisions(tmp_path / "one", restarts=())
    restarted = decisions(tmp_path / "two", restarts=(1, 30, 31, 90, 150))
    assert undisturbed == restarted
    assert {decision for _, _, decision in undisturbed} == {TrialScheduler.STOP, TrialScheduler.CONTINUE}


def test_a_scheduler_without_its_state_decides_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(ResumableASHA, "_save", lambda self, trial: None)
    assert decisions(tmp_path, restarts=()) != decisions(tmp_path, restarts=(1, 30, 31, 90, 150))


def test_decisions_are_those_of_ray_tunes_own_asha(tmp_path):
    own = ASHAScheduler(**SETTINGS)
    own.set_search_properties("best", "max")
    trials = {number: SimpleNamespace(trial_id=str(number)) for number in range(TRIALS)}
    for one in trials.values():
        own.on_trial_add(None, one)
    decided, stopped = [], set()
    for number, result in results():
        if number in stopped:
            continue
        decision = own.on_trial_result(None, trials[number], result)
        decided.append((number, result["evaluation"], decision))
        if decision == TrialScheduler.STOP:
            stopped.add(number)
    last = [entry for entry in decided if entry[1] == EVALUATIONS]
    ours = [entry for entry in decisions(tmp_path, restarts=()) if entry[1] < EVALUATIONS]
    assert ours == [entry for entry in decided if entry not in last]


def test_a_stopped_trial_is_stopped_again_when_it_repeats_its_results(tmp_path):
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


def scores_at_rungs(asha):
    """Return the scores by milestone, in the order of trials."""
    return {milestone: list(scores.values()) for milestone, scores in reversed(asha._brackets[0]._rungs)}


def report(asha, one, *scores):
    """Report scores of a trial until it is stopped; return the decisions."""
    asha.on_trial_add(None, one)
    decisions = []
    for evaluation, score in enumerate(scores, 1):
        decisions.append(asha.on_trial_result(None, one, {"evaluation": evaluation, "best": score}))
        if decisions[-1] == TrialScheduler.STOP:
            break
    return decisions


@pytest.mark.parametrize(
    ("values", "scores", "at_rungs"),
    [
        ({"epochs": 8}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], {2: [0.2], 4: [0.4], 8: [0.8]}),
        ({"epochs": 4}, [0.1, 0.2, 0.3, 0.4], {2: [0.1], 4: [0.2], 8: [0.4]}),
        ({"epochs": 6}, [0.1, 0.2, 0.4, 0.4, 0.4, 0.6], {2: [0.15], 4: [0.4], 8: [0.6]}),
        ({"epochs": 2, "evaluations_per_epoch": 2}, [0.1, 0.2, 0.3, 0.4], {2: [0.1], 4: [0.2], 8: [0.4]}),
        ({"epochs": 3}, [0.1, 0.2, 0.3], {2: [], 4: [0.15], 8: [0.3]}),  # its first third ends after the first quarter
        ({}, [0.1, 0.2, 0.3, 0.4], {2: [0.1], 4: [0.2], 8: [0.4]}),
    ],
    ids=["longest", "half", "interpolated", "evaluations of an epoch", "no evaluation before", "default epochs"],
)
def test_a_rung_holds_the_score_at_the_same_share_of_each_schedule(tmp_path, values, scores, at_rungs):
    asha = scheduler(max_t=8, grace_period=2, reduction_factor=2, settings=TaskConfig(epochs=4))
    report(asha, trial(tmp_path, 0, **values), *scores)
    assert scores_at_rungs(asha) == {milestone: pytest.approx(scores) for milestone, scores in at_rungs.items()}


def test_a_long_trial_is_not_stopped_for_short_ones_that_are_further_in_their_schedules(tmp_path):
    asha = scheduler(max_t=8, grace_period=2, reduction_factor=2)
    for number in range(3):
        report(asha, trial(tmp_path, number, epochs=2), 0.4, 0.8)
    longest = report(asha, trial(tmp_path, 3, epochs=8), 0.12, 0.25, 0.37, 0.5, 0.62, 0.75, 0.87, 1.0)
    assert longest == [TrialScheduler.CONTINUE] * 8


def test_every_trial_gets_its_grace_evaluations(tmp_path):
    asha = scheduler(max_t=8, grace_period=2, reduction_factor=2)
    report(asha, trial(tmp_path, 0, epochs=8), *[0.9] * 8)
    assert report(asha, trial(tmp_path, 1, epochs=4), *[0.1] * 4) == [TrialScheduler.CONTINUE, TrialScheduler.STOP]


def test_a_result_without_a_score_decides_nothing(tmp_path):
    asha, one = scheduler(), trial(tmp_path, 0)
    asha.on_trial_add(None, one)
    asha.on_trial_complete(None, one, {"done": True})
    assert all(scores == [] for scores in scores_at_rungs(asha).values())
