"""A search under faults: a trial that fails, one whose process is killed, a killed driver; then the same command."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from distilray.finetuning.progress import Evaluation
from jobs import search_glue
from tests.faults.processes import eventually, kill, kill_worker, start, wait_for, workers
from tests.tuning.tiny_search import values, write_model, write_next_sentence_task
from tuning.asha import STATE_FILE, ResumableASHA
from tuning.records import EVALUATION, RECORD_FILE, TrialRecord, read_journal, read_record, read_records

pytestmark = pytest.mark.slow

# The process of the first is killed, the driver at the third, and the last cannot be trained with.
RATES = [1e-3, 2e-3, 3e-3, 1e30]
KILLED, WHOLE, CUT_OFF, DIVERGING = range(4)
EPOCHS = 12
TRIAL = b"ray::ImplicitFunc"
ASHA = {"time_attr": EVALUATION, "max_t": EPOCHS, "grace_period": 1, "reduction_factor": 3.0}


@dataclass(frozen=True)
class Searched:
    """What there was when the driver was killed, and after the same command.

    Attributes:
        stamps: when the records of before were written.
        journal: evaluations of the trial that was cut off.
        rungs: ASHA's scores at each rung.
    """

    run: Path
    stamps: dict[str, int]
    journal: list[Evaluation]
    rungs: list[dict[str, float]]
    code: int
    out: str
    records: dict[int, TrialRecord]


@pytest.fixture(scope="module")
def searched(root: Path, tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Searched:
    folder = tmp_path_factory.mktemp("search")
    write_model(folder)
    write_next_sentence_task(folder / "glue")
    recipe, run = folder / "recipe.yaml", folder / "search"
    recipe.write_text(yaml.safe_dump(recipe_values(folder)))
    trials = run / "trials/follows"
    process = start(root, "search_glue", recipe)
    wait_for(lambda: begun(trials, KILLED), process)
    kill_worker(process, TRIAL)
    wait_for(lambda: WHOLE in numbers(trials) and begun(trials, CUT_OFF), process)
    kill(process)  # with the trial, which could end before it learns that its driver is gone
    eventually(lambda: not workers(process.pid, TRIAL))
    stamps = {str(file): file.stat().st_mtime_ns for file in trials.glob(f"*/{RECORD_FILE}")}
    (cut_off,) = [place for place in trials.iterdir() if place.is_dir() and read_record(str(place)) is None]
    journal, before = read_journal(str(cut_off)), rungs(run)
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        code = search_glue.main(["--recipe", str(recipe)])
    records = {record.number: record for record in read_records(str(trials)).values()}
    return Searched(run, stamps, journal, before, code, told.getvalue(), records)


def recipe_values(folder: Path) -> dict[str, Any]:
    """A trial takes both CPUs, so that the order is that of the grid."""
    found = values(folder, space={"learning_rate": {"choice": RATES}}, trial={"cpus": 2, "gpus": 0})
    return {**found, "fine_tuning": {**found["fine_tuning"], "epochs": EPOCHS, "warmup_fraction": 0.0}}


def numbers(trials: Path) -> set[int]:
    return {record.number for record in read_records(str(trials)).values()}


def begun(trials: Path, number: int) -> bool:
    """Whether all trials before this one have ended, and it has evaluations."""
    ended = numbers(trials)
    folders = [str(place) for place in trials.glob("*/") if not (place / RECORD_FILE).exists()]
    return ended == set(range(number)) and any(len(read_journal(place)) > 1 for place in folders)


def rungs(run: Path) -> list[dict[str, float]]:
    """The scores that ASHA compares with, of the first rung last."""
    asha = ResumableASHA(**ASHA)
    asha.restore(str(run / "tune/follows" / STATE_FILE))
    return [dict(scores) for _, scores in asha._brackets[0]._rungs]


def test_the_search_goes_on_to_its_end_and_counts_what_failed(searched: Searched) -> None:
    assert searched.code == 0, searched.out
    assert sorted(searched.records) == list(range(len(RATES)))
    assert "4 trials (2 failed)" in searched.out


def test_a_failed_trial_is_known_by_its_reason(searched: Searched) -> None:
    assert searched.records[DIVERGING].status == "failed"
    assert "gradient norm is" in searched.records[DIVERGING].reason
    assert searched.records[KILLED].status == "failed"
    assert "its process has ended: Worker unexpectedly exits" in searched.records[KILLED].reason
    assert len(searched.records[KILLED].evaluations) >= 2
    for number in (WHOLE, CUT_OFF):
        assert searched.records[number].status in ("complete", "stopped")


def test_trials_that_had_ended_are_not_trained_again(searched: Searched) -> None:
    assert len(searched.stamps) == 2
    for file, stamp in searched.stamps.items():
        assert Path(file).stat().st_mtime_ns == stamp


def test_the_trial_that_was_cut_off_goes_on_from_its_checkpoint(searched: Searched) -> None:
    # An evaluation that was made again would have taken another time.
    assert searched.journal[0] == searched.records[CUT_OFF].evaluations[0]


def test_asha_keeps_the_scores_of_its_rungs(searched: Searched) -> None:
    after = rungs(searched.run)
    assert sum(map(len, searched.rungs)) > 1
    for known, now in zip(searched.rungs, after, strict=True):
        assert known.items() <= now.items()
    assert len(after[-1]) == 3  # one score of each trial that had any


def test_the_winner_is_none_of_the_failed(searched: Searched) -> None:
    best = yaml.safe_load((searched.run / "best.yaml").read_text())
    assert best["per_task"]["follows"]["learning_rate"] in RATES[WHOLE:DIVERGING]
