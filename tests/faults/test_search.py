"""Fault tolerance of a search: a killed trial process and a killed driver. tests/tuning has trials that diverge."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from distilray.finetuning.fine_tune_state import Evaluation
from jobs import search_glue
from tests.faults.processes import kill, kill_worker, start, wait_for, wait_until, workers
from tests.tiny.recipes import write_recipe
from tests.tiny.search import values, write_model, write_next_sentence_task
from tuning.asha import STATE_FILE, ResumableASHA
from tuning.records import EVALUATION, RECORD_FILE, TrialRecord, read_evaluations, read_record, read_records

pytestmark = pytest.mark.slow

# The process of the first trial is killed, and the driver is killed during the second one.
RATES = [1e-3, 3e-3]
KILLED, INTERRUPTED = range(2)
EPOCHS = 12
TRIAL = b"ray::ImplicitFunc"
ASHA = {"time_attr": EVALUATION, "max_t": EPOCHS, "grace_period": 1, "reduction_factor": 3.0}


@dataclass(frozen=True)
class SearchResult:
    """State when the driver was killed, and after running the same command again.

    Attributes:
        stamps: modification times of the records before.
        journal: evaluations of the interrupted trial before.
        rungs: ASHA's scores at each rung before.
    """

    run: Path
    stamps: dict[Path, int]
    journal: list[Evaluation]
    rungs: list[dict[str, float]]
    code: int
    out: str
    records: dict[int, TrialRecord]


@pytest.fixture(scope="module")
def searched(root: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> SearchResult:
    folder = tmp_path_factory.mktemp("search")
    write_model(folder)
    write_next_sentence_task(folder / "glue")
    recipe, run = write_recipe(folder, **recipe_values(folder)), folder / "search"
    trials = run / "trials/follows"
    process = start(root, "search_glue", recipe)
    wait_for(lambda: has_started(trials, KILLED), process)
    kill_worker(process, TRIAL)
    wait_for(lambda: has_started(trials, INTERRUPTED), process)
    kill(process)  # and the trial, which would otherwise continue for a moment
    wait_until(lambda: not workers(process.pid, TRIAL))
    stamps = {file: file.stat().st_mtime_ns for file in trials.glob(f"*/{RECORD_FILE}")}
    (interrupted,) = [path for path in trials.iterdir() if path.is_dir() and read_record(str(path)) is None]
    journal, before = read_evaluations(str(interrupted)), rungs(run)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = search_glue.main(["--recipe", recipe])
    return SearchResult(run, stamps, journal, before, code, output.getvalue(), records(trials))


def recipe_values(folder: Path) -> dict[str, Any]:
    """Return the values of a recipe in which a trial takes both CPUs, so that trials run in the order of the grid."""
    recipe = values(folder, space={"learning_rate": {"choice": RATES}}, trial={"cpus": 2, "gpus": 0})
    return {**recipe, "fine_tuning": {**recipe["fine_tuning"], "epochs": EPOCHS, "warmup_fraction": 0.0}}


def records(trials: Path) -> dict[int, TrialRecord]:
    """Return the records of finished trials by number."""
    return {record.number: record for record in read_records(str(trials)).values()}


def has_started(trials: Path, number: int) -> bool:
    """Return True if all previous trials have finished and a trial has evaluations."""
    folders = [str(path) for path in trials.glob("*/") if not (path / RECORD_FILE).exists()]
    return set(records(trials)) == set(range(number)) and any(len(read_evaluations(each)) > 1 for each in folders)


def rungs(run: Path) -> list[dict[str, float]]:
    """Return the scores of ASHA's rungs; those of the first rung come last."""
    asha = ResumableASHA(**ASHA)
    asha.restore(str(run / "tune/follows" / STATE_FILE))
    return [dict(scores) for _, scores in asha._brackets[0]._rungs]


@pytest.mark.smoke
def test_the_search_finishes_and_its_winner_is_not_the_failed_trial(searched: SearchResult) -> None:
    assert searched.code == 0, searched.out
    assert sorted(searched.records) == list(range(len(RATES)))
    assert "2 trials (1 failed)" in searched.out
    best = yaml.safe_load((searched.run / "best.yaml").read_text())
    assert best["per_task"]["follows"]["learning_rate"] == RATES[INTERRUPTED]


def test_a_failed_trial_records_its_reason(searched: SearchResult) -> None:
    killed, interrupted = (searched.records[number] for number in (KILLED, INTERRUPTED))
    assert killed.status == "failed"
    assert "its process ended: Worker unexpectedly exits" in killed.reason
    assert len(killed.evaluations) >= 2
    assert interrupted.status in ("complete", "stopped")


def test_finished_trials_are_not_trained_again_and_the_interrupted_one_resumes(searched: SearchResult) -> None:
    assert len(searched.stamps) == 1
    assert {file: file.stat().st_mtime_ns for file in searched.stamps} == searched.stamps
    # A repeated evaluation would have another duration.
    assert searched.journal[0] == searched.records[INTERRUPTED].evaluations[0]


def test_asha_restores_the_scores_of_its_rungs(searched: SearchResult) -> None:
    after = rungs(searched.run)
    assert sum(map(len, searched.rungs)) > 1
    for before, now in zip(searched.rungs, after, strict=True):
        assert before.items() <= now.items()
    assert len(after[-1]) == 2  # one score per trial
