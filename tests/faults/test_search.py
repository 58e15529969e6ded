"""Fault tolerance of a search: a failing trial, a killed trial process, and a killed driver."""

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
from tests.tiny.search import values, write_model, write_next_sentence_task
from tuning.asha import STATE_FILE, ResumableASHA
from tuning.records import EVALUATION, RECORD_FILE, TrialRecord, read_evaluations, read_record, read_records

pytestmark = pytest.mark.slow

# The process of the first trial is killed, the driver is killed during the third, and the last one diverges.
RATES = [1e-3, 2e-3, 3e-3, 1e30]
KILLED, COMPLETE, INTERRUPTED, DIVERGING = range(4)
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
    stamps: dict[str, int]
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
    recipe, run = folder / "recipe.yaml", folder / "search"
    recipe.write_text(yaml.safe_dump(recipe_values(folder)))
    trials = run / "trials/follows"
    process = start(root, "search_glue", recipe)
    wait_for(lambda: has_started(trials, KILLED), process)
    kill_worker(process, TRIAL)
    wait_for(lambda: COMPLETE in numbers(trials) and has_started(trials, INTERRUPTED), process)
    kill(process)  # and the trial, which would otherwise continue for a moment
    wait_until(lambda: not workers(process.pid, TRIAL))
    stamps = {str(file): file.stat().st_mtime_ns for file in trials.glob(f"*/{RECORD_FILE}")}
    (interrupted,) = [path for path in trials.iterdir() if path.is_dir() and read_record(str(path)) is None]
    journal, before = read_evaluations(str(interrupted)), rungs(run)
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output):
        code = search_glue.main(["--recipe", str(recipe)])
    records = {record.number: record for record in read_records(str(trials)).values()}
    return SearchResult(run, stamps, journal, before, code, output.getvalue(), records)


def recipe_values(folder: Path) -> dict[str, Any]:
    """Return the values of a recipe in which a trial takes both CPUs, so that trials run in the order of the grid."""
    recipe = values(folder, space={"learning_rate": {"choice": RATES}}, trial={"cpus": 2, "gpus": 0})
    return {**recipe, "fine_tuning": {**recipe["fine_tuning"], "epochs": EPOCHS, "warmup_fraction": 0.0}}


def numbers(trials: Path) -> set[int]:
    return {record.number for record in read_records(str(trials)).values()}


def has_started(trials: Path, number: int) -> bool:
    """Return True if all previous trials have finished and a trial has evaluations."""
    folders = [str(path) for path in trials.glob("*/") if not (path / RECORD_FILE).exists()]
    return numbers(trials) == set(range(number)) and any(len(read_evaluations(folder)) > 1 for folder in folders)


def rungs(run: Path) -> list[dict[str, float]]:
    """Return the scores of ASHA's rungs; those of the first rung come last."""
    asha = ResumableASHA(**ASHA)
    asha.restore(str(run / "tune/follows" / STATE_FILE))
    return [dict(scores) for _, scores in asha._brackets[0]._rungs]


def test_the_search_finishes_and_counts_failed_trials(searched: SearchResult) -> None:
    assert searched.code == 0, searched.out
    assert sorted(searched.records) == list(range(len(RATES)))
    assert "4 trials (2 failed)" in searched.out


def test_a_failed_trial_records_its_reason(searched: SearchResult) -> None:
    assert searched.records[DIVERGING].status == "failed"
    assert "gradient norm is" in searched.records[DIVERGING].reason
    assert searched.records[KILLED].status == "failed"
    assert "its process ended: Worker unexpectedly exits" in searched.records[KILLED].reason
    assert len(searched.records[KILLED].evaluations) >= 2
    for number in (COMPLETE, INTERRUPTED):
        assert searched.records[number].status in ("complete", "stopped")


def test_finished_trials_are_not_trained_again(searched: SearchResult) -> None:
    assert len(searched.stamps) == 2
    for file, stamp in searched.stamps.items():
        assert Path(file).stat().st_mtime_ns == stamp


def test_the_interrupted_trial_resumes_from_its_checkpoint(searched: SearchResult) -> None:
    # A repeated evaluation would have another duration.
    assert searched.journal[0] == searched.records[INTERRUPTED].evaluations[0]


def test_asha_restores_the_scores_of_its_rungs(searched: SearchResult) -> None:
    after = rungs(searched.run)
    assert sum(map(len, searched.rungs)) > 1
    for before, now in zip(searched.rungs, after, strict=True):
        assert before.items() <= now.items()
    assert len(after[-1]) == 3  # one score per trial that has any


def test_the_winner_is_not_a_failed_trial(searched: SearchResult) -> None:
    best = yaml.safe_load((searched.run / "best.yaml").read_text())
    assert best["per_task"]["follows"]["learning_rate"] in RATES[COMPLETE:DIVERGING]
