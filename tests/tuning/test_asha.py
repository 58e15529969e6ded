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
EIGHT = {"max_t": 8, "grace_period": 2, "reduction_factor": 2}
CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
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


def decisions(folder, *, restarts=(), new_scheduler=scheduler):
    """Return the decisions on the results of concurrent trials; a restart keeps only the folder."""
    random = np.random.default_rng(1)
    counts, stopped, decided = dict.fromkeys(range(TRIALS), 0), set(), []
    for index, number in enumerate(random.permutation(np.repeat(np.arange(TRIALS), EVALUATIONS)).tolist()):
        if index in (0, *restarts):
            asha, trials = new_scheduler(), [trial(folder, number) for number in range(TRIALS)]
            for each in trials:
                asha.on_trial_add(None, each)
        counts[number] += 1
        result = {"evaluation": counts[number], "best": float(random.random())}
        if number not in stopped:
            decision = asha.on_trial_result(None, trials[number], result)
            decided.append((number, counts[number], decision))
            stopped |= {number} if decision == STOP else set()
    return decided


def report(asha, one, *scores):
    """Report scores of a trial until it is stopped; return the decisions."""
    asha.on_trial_add(None, one)
    decided = []
    for evaluation, score in enumerate(scores, 1):
        decided.append(asha.on_trial_result(None, one, {"evaluation": evaluation, "best": score}))
        if decided[-1] == STOP:
            break
    return decided


def scores_at_rungs(asha):
    """Return the scores by milestone, in the order of trials."""
    return {milestone: list(scores.values()) for milestone, scores in reversed(asha._brackets[0]._rungs)}


def test_restarts_do_not_change_the_decisions(tmp_path, monkeypatch):
    restarts = (1, 30, 31, 90, 150)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    uninterrupted = decisions(tmp_path / "one")
    assert decisions(tmp_path / "two", restarts=restarts) == uninterrupted
    assert {decision for *_, decision in uninterrupted} == {STOP, CONTINUE}
    monkeypatch.setattr(ResumableASHA, "_save", lambda self, trial: None)
    assert decisions(tmp_path / "three", restarts=restarts) != uninterrupted


def test_equally_long_trials_are_decided_like_by_ray_tunes_own_asha(tmp_path):
    def own_scheduler():
        asha = ASHAScheduler(**SETTINGS)
        asha.set_search_properties("best", "max")
        return asha

    own = decisions(tmp_path, new_scheduler=own_scheduler)
    before_end = [[each for each in decided if each[1] < EVALUATIONS] for decided in (decisions(tmp_path), own)]
    assert before_end[0] == before_end[1]


def test_a_stopped_trial_is_stopped_again_when_it_repeats_its_results(tmp_path):
    asha = scheduler()
    assert [report(asha, trial(tmp_path, number), score) for number, score in enumerate((0.9, 0.8, 0.1))][-1] == [STOP]
    assert report(scheduler(), trial(tmp_path, 2), 0.1) == [STOP]


def test_a_repeated_result_counts_once(tmp_path):
    asha, one = scheduler(), trial(tmp_path, 0)
    for _ in range(3):
        report(asha, one, 0.5)
    assert scores_at_rungs(asha)[1] == [0.5]


@pytest.mark.parametrize("torn", [False, True])
def test_a_torn_state_file_is_ignored(tmp_path, torn):
    asha = scheduler()
    report(asha, trial(tmp_path, 0), 0.5)
    if torn:
        (tmp_path / f"{STATE_FILE}.part").write_bytes(b"half of it")
    restarted = scheduler()
    restarted.on_trial_add(None, trial(tmp_path, 0))
    assert restarted._brackets[0]._rungs == asha._brackets[0]._rungs


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
def test_a_rung_has_the_score_at_the_same_fraction_of_each_schedule(tmp_path, values, scores, at_rungs):
    asha = scheduler(**EIGHT, settings=TaskConfig(epochs=4))
    report(asha, trial(tmp_path, 0, **values), *scores)
    assert scores_at_rungs(asha) == {milestone: pytest.approx(scores) for milestone, scores in at_rungs.items()}


def test_a_long_trial_is_not_stopped_for_short_ones_that_are_further_in_their_schedules(tmp_path):
    asha = scheduler(**EIGHT)
    for number in range(3):
        report(asha, trial(tmp_path, number, epochs=2), 0.4, 0.8)
    scores = [0.12, 0.25, 0.37, 0.5, 0.62, 0.75, 0.87, 1.0]
    assert report(asha, trial(tmp_path, 3, epochs=8), *scores) == [CONTINUE] * 8


def test_every_trial_has_its_grace_evaluations(tmp_path):
    asha = scheduler(**EIGHT)
    report(asha, trial(tmp_path, 0, epochs=8), *[0.9] * 8)
    assert report(asha, trial(tmp_path, 1, epochs=4), *[0.1] * 4) == [CONTINUE, STOP]


def test_a_result_without_a_score_decides_nothing(tmp_path):
    asha, one = scheduler(), trial(tmp_path, 0)
    asha.on_trial_add(None, one)
    asha.on_trial_complete(None, one, {"done": True})
    assert not any(scores_at_rungs(asha).values())
