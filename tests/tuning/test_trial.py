"""Reports and files of trials in this process."""

import dataclasses
import time
from pathlib import Path

import pytest

from distilray.config.glue import TrialConfig
from distilray.errors import InputError
from distilray.finetuning.features import encode_task
from distilray.finetuning.files import load_task
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.search import config
from tuning import trial as module
from tuning.experiment import run_trial
from tuning.records import (
    BEST,
    EVALUATION,
    RECORD_FILE,
    TrialContext,
    TrialPoint,
    TrialRecord,
    read_evaluations,
    read_record,
    write_record,
)

VALUES = {"learning_rate": 3e-3, "batch_size": 16}


@pytest.fixture(scope="module")
def features(work):
    data, settings = load_task(str(work / "glue"), "follows"), config(work).task_config("follows")
    return encode_task(data, read_tokenizer(str(work / "model")), settings, seed=56)


@pytest.fixture
def context(work, tmp_path, features):
    return TrialContext(
        task="follows",
        settings=config(work).task_config("follows"),
        model_dir=str(work / "model"),
        trials_folder=str(tmp_path / "trials"),
        seed=56,
        precision="fp32",
        deterministic=False,
        trial=TrialConfig(cpus=1, gpus=0),
        features={32: features},
        stop_reason="behind others",
    )


@pytest.fixture(autouse=True)
def reports(monkeypatch):
    """Reports of the trials, without Ray."""
    collected = []
    monkeypatch.setattr(module.tune, "report", collected.append)
    monkeypatch.setattr(module.ray, "get", lambda value: value)
    return collected


@pytest.fixture
def replace_training(monkeypatch):
    """Replace the training of trials; by default nothing may be trained."""

    def refuse(*arguments, **options):
        raise AssertionError("it trains")

    return lambda fine_tune=refuse: monkeypatch.setattr(module, "fine_tune", fine_tune)


def sample(**changes):
    return {"sample": {"number": 0, "values": VALUES, **changes}}


def folder_of(context, **changes):
    return TrialPoint.of(sample(**changes)).folder(context.trials_folder, 56)


def stop_at(monkeypatch, number, error):
    """Stop the trial, or kill its process, at one of its evaluations."""

    def report(result):
        if result[EVALUATION] == number:
            raise error

    monkeypatch.setattr(module.tune, "report", report)


def test_a_trial_reports_the_best_score_so_far_and_leaves_only_its_record(context, reports):
    run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    scores = [evaluation.scores["score"] for evaluation in record.evaluations]
    assert len(set(scores)) > 1
    assert reports == [{EVALUATION: count, BEST: max(scores[:count])} for count in (1, 2, 3)]
    assert (record.status, record.reason, record.epochs) == ("complete", "", 3.0)
    names = sorted(file.relative_to(folder_of(context)).as_posix() for file in Path(folder_of(context)).rglob("*"))
    assert names == ["evaluations.json", RECORD_FILE]


def test_values_with_a_record_are_not_trained_again(context, reports, replace_training):
    run_trial(sample(), context=context)
    first = list(reports)
    replace_training()
    run_trial(sample(number=7), context=context)
    run_trial(sample(number=4, repeat=1), context=context)  # TPE may choose the same values again
    assert reports == first * 3
    records = [read_record(folder_of(context, repeat=repeat)) for repeat in (0, 1)]
    assert records[1].evaluations == records[0].evaluations
    assert [record.number for record in records] == [0, 4]


def test_a_stopped_trial_has_a_record_with_the_reason(context, monkeypatch):
    stop_at(monkeypatch, 2, SystemExit)
    with pytest.raises(SystemExit):
        run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    assert (record.status, record.reason, len(record.evaluations)) == ("stopped", "behind others", 2)


def test_an_interrupted_trial_resumes_to_the_same_result(context, reports, monkeypatch, replace_training, tmp_path):
    other = dataclasses.replace(context, trials_folder=str(tmp_path / "other"))
    run_trial(sample(), context=other)
    stop_at(monkeypatch, 2, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run_trial(sample(), context=context)
    assert read_record(folder_of(context)) is None
    assert len(read_evaluations(folder_of(context))) == 2
    repeated, steps, fine_tune = [], [], module.fine_tune
    monkeypatch.setattr(module.tune, "report", repeated.append)
    replace_training(lambda run, **options: fine_tune(run, on_step=lambda step, _: steps.append(step), **options))
    run_trial(sample(), context=context)
    assert repeated == reports
    assert min(steps) == 4  # of 9; the first evaluation, after step 3, has a checkpoint
    resumed, uninterrupted = (
        [dataclasses.replace(each, seconds=0.0) for each in read_record(folder_of(trial)).evaluations]
        for trial in (context, other)
    )
    assert resumed == uninterrupted


def test_a_failed_trial_records_the_reason_and_is_not_repeated(context, replace_training):
    def failing(*_, **__):
        raise RuntimeError("step 3: gradient norm is nan\nand more")

    replace_training(failing)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="gradient norm is nan"):
            run_trial(sample(), context=context)
        record = read_record(folder_of(context))
        assert (record.status, record.reason) == ("failed", "RuntimeError: step 3: gradient norm is nan and more")
        replace_training()


def test_a_trial_whose_search_ends_while_it_writes_was_stopped_and_has_not_failed(context, replace_training):
    fine_tune = module.fine_tune

    def interrupted(*arguments, report, **options):
        def report_and_end(evaluation):
            report(evaluation)
            # At its end, the search does this in another process.
            ended = TrialRecord(0, VALUES, 56, "stopped", "behind others", read_evaluations(folder_of(context)), 1.0)
            write_record(folder_of(context), ended)
            raise InputError("training/model/tokenizer.json: cannot be written")

        return fine_tune(*arguments, report=report_and_end, **options)

    replace_training(interrupted)
    run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    assert (record.status, record.reason, len(record.evaluations)) == ("stopped", "behind others", 1)


def test_a_trial_ends_at_its_time_limit(context):
    limited = dataclasses.replace(context, trial=TrialConfig(cpus=1, gpus=0, max_minutes=1e-6))
    run_trial(sample(), context=limited)
    record = read_record(folder_of(context))
    assert (record.status, record.reason, len(record.evaluations)) == ("time", "trial.max_minutes was reached", 1)


def test_a_trial_that_hangs_is_killed_and_counts_as_failed(context, monkeypatch, replace_training):
    exits = []
    monkeypatch.setattr(module, "_HANG_S", 0.05)
    monkeypatch.setattr(module.os, "_exit", exits.append)

    def hanging(*_, **__):
        deadline = time.monotonic() + 60
        while not exits and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt  # instead of the end of the process

    replace_training(hanging)
    limited = dataclasses.replace(context, trial=TrialConfig(cpus=1, gpus=0, max_minutes=1e-6))
    with pytest.raises(KeyboardInterrupt):
        run_trial(sample(), context=limited)
    assert exits == [1]
    record = read_record(folder_of(context))
    assert (record.status, record.reason) == ("failed", "it hung long after trial.max_minutes")


def test_values_repetition_and_seed_identify_a_trial_but_not_its_number():
    def folder(seed=56, **changes):
        return TrialPoint.of(sample(**changes)).folder("trials", seed)

    reordered = dict(reversed(VALUES.items()))
    assert folder() == folder(number=3) == folder(values=reordered)
    assert len({folder(), folder(seed=57), folder(repeat=1), folder(values={**VALUES, "batch_size": 8})}) == 4
