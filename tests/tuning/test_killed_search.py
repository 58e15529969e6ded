"""Killed trials and searches leave complete records, find the same winner and train no trial twice."""

import csv
import dataclasses
import functools
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from distilray.finetuning import fine_tune
from distilray.runtime.resources import Node
from distilray.runtime.run_folder import RunFolder
from tests.distilray.interruptions import KilledError, at_each_folder, killed_at_change
from tests.tiny.search import config
from tuning import experiment, search, trial
from tuning.records import EVALUATION, TrialPoint, read_record, read_records

RATES = [1e-5, 1e-3, 3e-3]
CHANGES = {
    "fine_tuning": {"epochs": 2, "max_length": 32, "batch_size": 8, "seeds": [1], "max_train_examples": 8},
    "space": {"learning_rate": {"choice": RATES}},
}
POINTS = [TrialPoint(number, {"learning_rate": rate}) for number, rate in enumerate(RATES)]


@pytest.fixture
def trained(monkeypatch):
    """Learning rates with which trials fine-tune, in order."""
    rates, train = [], trial.fine_tune

    def counted(run, **options):
        rates.append(run.settings.learning_rate)
        return train(run, **options)

    monkeypatch.setattr(trial, "fine_tune", counted)
    return rates


@pytest.fixture
def tune(monkeypatch, trained):
    """Replace Ray Tune by a loop over the trials that saves nothing, as if it was killed before its first save."""
    options = SimpleNamespace(order=1, limit=None, reports=[])

    class Tuner:
        can_restore = staticmethod(lambda *_, **__: False)

        def __init__(self, trainable, *, param_space, **_):
            self.trainable, self.samples = trainable, param_space["sample"]["grid_search"]

        def fit(self):
            for number, sample in enumerate(self.samples[:: options.order]):
                if number == options.limit:
                    raise KilledError
                self.trainable({"sample": sample})

    def bound(function, **arguments):
        return functools.update_wrapper(functools.partial(function, **arguments), function)

    monkeypatch.setattr(experiment.tune, "Tuner", Tuner)
    monkeypatch.setattr(experiment.tune, "with_parameters", bound)
    monkeypatch.setattr(experiment.tune, "with_resources", lambda function, _: function)
    monkeypatch.setattr(trial.tune, "report", options.reports.append)
    monkeypatch.setattr(search, "ray_session", lambda _: nullcontext())
    monkeypatch.setattr(search, "cluster_nodes", lambda: [Node({"CPU": 2.0, "memory": 2.0**36})])
    monkeypatch.setattr(search, "search_plot", lambda _: b"")
    monkeypatch.setattr(search.ray, "remote", lambda **_: lambda function: SimpleNamespace(remote=function))
    monkeypatch.setattr(search.ray, "wait", lambda running, **_: (running, []))
    monkeypatch.setattr(search.ray, "cancel", lambda *_, **__: None)
    for name in ("put", "get"):
        monkeypatch.setattr(search.ray, name, lambda value: value)
    for module in (search, fine_tune):
        monkeypatch.setattr(module, "ensure_capacity", lambda *_, **__: 1)
    monkeypatch.setattr(fine_tune, "run_on_workers", lambda loop, *_, **__: loop())
    return options


@pytest.fixture
def run_search(work, tune):
    """Search on `follows`; return the results without times."""

    def run(run_dir, order=1, limit=None):
        tune.order, tune.limit = order, limit
        recipe = config(work, run_dir=str(run_dir), **CHANGES)
        folder = RunFolder("search_glue", recipe, {})
        folder.begin()
        outcome = search.search_glue(recipe, folder)
        rows = list(csv.DictReader((run_dir / "trials.csv").read_text().splitlines()))
        trials = [{**row, "seconds": ""} for row in rows]
        scores = json.loads((run_dir / "scores.json").read_text())["search"]
        best = (run_dir / "best.yaml").read_text().replace(str(run_dir), "")
        return trials, scores, best, sorted(outcome.outputs), outcome.counts["summary"]

    return run


def test_a_killed_search_runs_only_its_missing_trials_and_finds_the_same_winner(
    run_search, trained, tmp_path, monkeypatch
):
    expected = run_search(tmp_path / "uninterrupted")
    assert len(expected[0]) == len(set(trained)) == 3
    for limit in (1, 2):
        run_dir = tmp_path / str(limit)
        trained.clear()
        with pytest.raises(KilledError):
            run_search(run_dir, order=-1, limit=limit)
        assert len(read_records(str(run_dir / "trials/follows"))) == len(trained) == limit
        if limit == 2:  # all nodes may have gone when the winners are fine-tuned
            monkeypatch.setattr(search, "cluster_nodes", list)
        assert run_search(run_dir) == expected
        assert sorted(trained) == RATES


@pytest.fixture
def run_trial(work, tune, tmp_path):
    """Run a trial in its own folder; return its record without times, its reports and its files."""
    recipe = config(work, run_dir=str(tmp_path / "run"), **CHANGES)
    data, _ = search.load_tasks(recipe, with_test=False)
    need, folder = search.largest_trial_need(recipe, data), RunFolder("search_glue", recipe, {})
    shared = search._experiments(recipe, folder, search._encode(recipe, data), need, 1)["follows"].context

    def run(trials_folder):
        tune.reports.clear()
        context = dataclasses.replace(shared, trials_folder=str(trials_folder))
        trial.fine_tune_trial({"sample": dataclasses.asdict(POINTS[1])}, context)
        own = POINTS[1].folder(str(trials_folder), context.seed)
        files = sorted(file.name for file in Path(own).rglob("*") if not file.name.endswith(".part"))
        record = read_record(own)
        evaluations = [dataclasses.replace(each, seconds=0.0) for each in record.evaluations]
        return dataclasses.replace(record, seconds=0.0, evaluations=evaluations), list(tune.reports), files

    return run


def test_a_trial_killed_at_any_change_of_the_disk_resumes_to_the_same_result(run_trial, trained, tmp_path):
    with killed_at_change(-1) as changes:
        record, reports, _ = run_trial(tmp_path / "uninterrupted")
    assert [report[EVALUATION] for report in reports] == [1, 2]
    for number in at_each_folder(changes):
        folder = tmp_path / str(number)
        with killed_at_change(number), pytest.raises(KilledError):
            run_trial(folder)
        is_complete = bool(read_records(str(folder)))
        trained.clear()
        assert run_trial(folder)[:2] == (record, reports), changes[number]
        assert trained == ([] if is_complete else [1e-3])


def test_the_end_of_a_search_writes_only_missing_records(run_trial, tmp_path):
    complete, _, _ = run_trial(tmp_path)
    context = SimpleNamespace(trials_folder=str(tmp_path), seed=complete.seed, stop_reason="behind others")
    experiment._CONTEXT.set(context)
    trials = [SimpleNamespace(config={"sample": dataclasses.asdict(point)}) for point in POINTS]
    experiment._MissingRecordsCallback().on_experiment_end(trials)
    records = [read_record(point.folder(context.trials_folder, context.seed)) for point in POINTS]
    assert [record.status for record in records] == ["stopped", "complete", "stopped"]
    assert [record.reason for record in records] == ["behind others", "", "behind others"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Traceback\n\nValueError: bad\n", "its process ended: ValueError: bad"),
        (
            "died. Worker exit detail: killed by the OOM killer. Some common causes",
            "its process ended: killed by the OOM",
        ),
        (None, "its process ended: the reason is unknown"),
    ],
)
def test_a_trial_whose_process_died_has_a_record_with_the_reason(tmp_path, text, reason):
    file = tmp_path / "error.txt"
    if text is not None:
        file.write_text(text)
    experiment._CONTEXT.set(SimpleNamespace(trials_folder=str(tmp_path), seed=5, stop_reason=""))
    dead = SimpleNamespace(config={"sample": dataclasses.asdict(POINTS[0])}, error_file=str(file))
    experiment._MissingRecordsCallback().on_trial_error(1, [dead], dead)
    record = read_record(POINTS[0].folder(str(tmp_path), 5))
    assert record.status == "failed"
    assert record.reason.startswith(reason)
    assert "common causes" not in record.reason
