"""Reports and files of trials in this process."""

import dataclasses
import json
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


@pytest.fixture
def context(work, tmp_path):
    settings = config(work).task_config("follows")
    data = load_task(str(work / "glue"), "follows")
    features = encode_task(data, read_tokenizer(str(work / "model")), settings, seed=56)
    return TrialContext(
        task="follows",
        settings=settings,
        model_dir=str(work / "model"),
        trials_folder=str(tmp_path / "trials"),
        seed=56,
        precision="fp32",
        trial=TrialConfig(cpus=1, gpus=0),
        features={32: features},
        stop_reason="behind others",
    )


@pytest.fixture
def reports(monkeypatch):
    """Collect the reports of a trial, without Ray."""
    found = []
    monkeypatch.setattr(module.tune, "report", found.append)
    monkeypatch.setattr(module.ray, "get", lambda value: value)
    return found


def sample(**changes):
    return {"sample": {"number": 0, "values": VALUES, **changes}}


def folder_of(context, **changes):
    return TrialPoint.of(sample(**changes)).folder(context.trials_folder, 56)


def stop_at(monkeypatch, number, error=SystemExit):
    """Stop the trial, or kill its process, at one of its evaluations."""

    def report(result):
        if result[EVALUATION] == number:
            raise error

    monkeypatch.setattr(module.tune, "report", report)


def refuse_training(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("it trains")

    monkeypatch.setattr(module, "fine_tune", refused)


def scores(record):
    return [(each.number, each.step, each.scores, each.train_loss) for each in record.evaluations]


def test_a_trial_reports_each_evaluation_with_the_best_score_so_far(context, reports):
    run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    assert record.status == "complete"
    assert [result[EVALUATION] for result in reports] == [1, 2, 3]
    found = [evaluation.scores["score"] for evaluation in record.evaluations]
    assert [result[BEST] for result in reports] == [max(found[:count]) for count in (1, 2, 3)]
    assert len(set(found)) > 1
    assert record.epochs == 3.0


def test_only_the_record_and_the_evaluations_are_left_of_a_trial(context, reports):
    run_trial(sample(), context=context)
    names = {file.relative_to(folder_of(context)).as_posix() for file in Path(folder_of(context)).rglob("*")}
    assert names == {RECORD_FILE, "evaluations.json"}


def test_a_trial_with_a_record_repeats_its_reports_and_does_not_train(context, reports, monkeypatch):
    run_trial(sample(), context=context)
    first = list(reports)
    refuse_training(monkeypatch)
    run_trial(sample(number=7), context=context)
    assert reports == first + first


def test_a_stopped_trial_ends_in_order_and_has_its_record(context, reports, monkeypatch):
    stop_at(monkeypatch, 2)
    with pytest.raises(SystemExit):
        run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    assert (record.status, record.reason, len(record.evaluations)) == ("stopped", "behind others", 2)


def test_an_interrupted_trial_resumes_and_ends_like_an_uninterrupted_one(context, reports, monkeypatch, tmp_path):
    other = dataclasses.replace(context, trials_folder=str(tmp_path / "other"))
    run_trial(sample(), context=other)
    uninterrupted = list(reports)
    stop_at(monkeypatch, 2, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run_trial(sample(), context=context)
    assert read_record(folder_of(context)) is None
    assert len(read_evaluations(folder_of(context))) == 2
    again, steps = [], []
    monkeypatch.setattr(module.tune, "report", again.append)
    fine_tune = module.fine_tune
    monkeypatch.setattr(
        module, "fine_tune", lambda *args, **more: fine_tune(*args, **more, on_step=lambda step, _: steps.append(step))
    )
    run_trial(sample(), context=context)
    assert again == uninterrupted
    assert min(steps) == 4  # of 9; the first evaluation, after step 3, has a checkpoint
    records = [read_record(folder_of(each)) for each in (context, other)]
    assert scores(records[0]) == scores(records[1])


def test_a_failing_trial_leaves_the_reason_and_is_not_tried_again(context, reports, monkeypatch):
    def failing(*args, **kwargs):
        raise RuntimeError("step 3: gradient norm is nan\nand more")

    monkeypatch.setattr(module, "fine_tune", failing)
    with pytest.raises(RuntimeError, match="gradient norm is nan"):
        run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    assert record.status == "failed"
    assert record.reason == "RuntimeError: step 3: gradient norm is nan and more"
    refuse_training(monkeypatch)
    with pytest.raises(RuntimeError, match="gradient norm is nan"):
        run_trial(sample(), context=context)


def test_a_trial_whose_search_is_over_while_it_writes_has_been_stopped_and_not_failed(context, reports, monkeypatch):
    fine_tune = module.fine_tune

    def interrupted(*args, report, **kwargs):
        def report_and_lose(evaluation):
            report(evaluation)
            # What the search does at its end, in a process of its own.
            ended = TrialRecord(0, VALUES, 56, "stopped", "behind others", read_evaluations(folder_of(context)), 1.0)
            write_record(folder_of(context), ended)
            raise InputError("training/model/tokenizer.json: cannot be written")

        return fine_tune(*args, report=report_and_lose, **kwargs)

    monkeypatch.setattr(module, "fine_tune", interrupted)
    run_trial(sample(), context=context)
    record = read_record(folder_of(context))
    assert (record.status, record.reason, len(record.evaluations)) == ("stopped", "behind others", 1)


def test_the_same_values_named_twice_are_trained_once(context, reports, monkeypatch):
    run_trial(sample(), context=context)
    refuse_training(monkeypatch)
    run_trial(sample(number=4, repeat=1), context=context)
    assert folder_of(context) != folder_of(context, repeat=1)
    first, again = (read_record(folder_of(context, repeat=repeat)) for repeat in (0, 1))
    assert again.evaluations == first.evaluations
    assert (first.number, again.number) == (0, 4)


def test_a_trial_ends_when_its_time_is_over(context, reports):
    limited = dataclasses.replace(context, trial=TrialConfig(cpus=1, gpus=0, max_minutes=1e-6))
    run_trial(sample(), context=limited)
    record = read_record(folder_of(context))
    assert (record.status, len(record.evaluations)) == ("time", 1)
    assert "max_minutes" in record.reason


def test_a_trial_that_hangs_is_ended_and_counts_as_failed(context, reports, monkeypatch):
    exits = []
    monkeypatch.setattr(module, "_HANG_S", 0.05)
    monkeypatch.setattr(module.os, "_exit", exits.append)

    def hanging(*args, **kwargs):
        deadline = time.monotonic() + 10
        while not exits and time.monotonic() < deadline:
            time.sleep(0.01)
        raise KeyboardInterrupt  # instead of the end of the process

    monkeypatch.setattr(module, "fine_tune", hanging)
    short = dataclasses.replace(context, trial=TrialConfig(cpus=1, gpus=0, max_minutes=1e-6))
    with pytest.raises(KeyboardInterrupt):
        run_trial(sample(), context=short)
    assert exits == [1]
    assert read_record(folder_of(context)).status == "failed"
    assert "hung" in json.loads(Path(folder_of(context), RECORD_FILE).read_text())["reason"]


def test_a_trial_is_the_same_whatever_its_number_and_another_with_other_values():
    def name_of(seed=56, **changes):
        return TrialPoint.of(sample(**changes)).folder("trials", seed)

    turned = {name: VALUES[name] for name in reversed(VALUES)}
    assert name_of() == name_of(number=3) == name_of(values=turned)
    assert (
        len(
            {
                name_of(),
                name_of(seed=57),
                name_of(repeat=1),
                name_of(values={**VALUES, "batch_size": 8}),
            }
        )
        == 4
    )
