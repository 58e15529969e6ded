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

SETTINGS = {"epochs": 2, "max_length": 32, "batch_size": 8, "seeds": [1], "max_train_examples": 8}
SPACE = {"learning_rate": {"choice": [1e-5, 1e-3, 3e-3]}}


@pytest.fixture
def trained(monkeypatch):
    """Return the learning rates with which trials fine-tune, in order."""
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
    monkeypatch.setattr(search, "ensure_capacity", lambda *_, **__: 2)
    monkeypatch.setattr(search, "cluster_nodes", lambda: [Node({"CPU": 2.0, "memory": 2.0**36})])
    monkeypatch.setattr(search, "search_plot", lambda _: b"")
    monkeypatch.setattr(search.ray, "remote", lambda **_: lambda function: SimpleNamespace(remote=function))
    monkeypatch.setattr(search.ray, "wait", lambda running, **_: (running, []))
    monkeypatch.setattr(search.ray, "cancel", lambda *_, **__: None)
    for name in ("put", "get"):
        monkeypatch.setattr(search.ray, name, lambda value: value)
    monkeypatch.setattr(fine_tune, "ensure_capacity", lambda *_, **__: 1)
    monkeypatch.setattr(fine_tune, "run_on_workers", lambda loop, *_, **__: loop())
    return options


@pytest.fixture
def run_search(work, tune):
    """Search on `follows`; return the results without times."""

    def run(run_dir, order=1, limit=None):
        tune.order, tune.limit = order, limit
        values = config(work, run_dir=str(run_dir), fine_tuning=SETTINGS, space=SPACE)
        folder = RunFolder("search_glue", values, {})
        folder.begin()
        outcome = search.search_glue(values, folder)
        rows = list(csv.DictReader((run_dir / "trials.csv").read_text().splitlines()))
        trials = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
        scores = json.loads((run_dir / "scores.json").read_text())["search"]
        recipe = (run_dir / "best.yaml").read_text().replace(str(run_dir), "")
        return trials, scores, recipe, outcome.outputs.keys(), outcome.counts["summary"]

    return run


def test_a_search_whose_last_trials_came_first_does_those_that_are_left(run_search, trained, tmp_path):
    whole = run_search(tmp_path / "whole")
    assert len(whole[0]) == len(set(trained)) == 3
    for limit in (1, 2):
        run_dir = tmp_path / str(limit)
        trained.clear()
        with pytest.raises(KilledError):
            run_search(run_dir, order=-1, limit=limit)
        assert len(read_records(str(run_dir / "trials/follows"))) == len(trained) == limit
        assert run_search(run_dir) == whole
        assert sorted(trained) == sorted(SPACE["learning_rate"]["choice"])


def test_the_winners_are_fine_tuned_after_all_nodes_of_the_cluster_have_gone(run_search, tmp_path, monkeypatch):
    whole = run_search(tmp_path / "whole")
    monkeypatch.setattr(search, "cluster_nodes", list)
    assert run_search(tmp_path / "shrunk") == whole


@pytest.fixture
def run_trial(work, tune, tmp_path):
    """Run a trial in its own folder; return its record without times, its files and its reports."""
    recipe = config(work, fine_tuning=SETTINGS, space=SPACE)
    folder = RunFolder("search_glue", recipe.model_copy(update={"run_dir": str(tmp_path / "run")}), {})
    data, _ = search.load_tasks(recipe, with_test=False)
    need = search.largest_trial_need(recipe, data)
    shared = search._experiments(recipe, folder, search._encode(recipe, data), need, 1)["follows"].context
    sample = TrialPoint(1, {"learning_rate": 1e-3})

    def run(trials_folder):
        tune.reports.clear()
        moved = dataclasses.replace(shared, trials_folder=str(trials_folder))
        trial.fine_tune_trial({"sample": dataclasses.asdict(sample)}, moved)
        own = sample.folder(str(trials_folder), moved.seed)
        names = {file.name for file in Path(own).rglob("*") if not file.name.endswith(".part")}
        evaluations = [dataclasses.replace(each, seconds=0.0) for each in read_record(own).evaluations]
        return dataclasses.replace(read_record(own), seconds=0.0, evaluations=evaluations), names, list(tune.reports)

    return run


def test_a_trial_that_is_killed_at_any_change_of_the_disk_ends_as_one_that_is_not(run_trial, trained, tmp_path):
    with killed_at_change(-1) as changes:
        whole = run_trial(tmp_path / "whole")
    assert [report[EVALUATION] for report in whole[-1]] == [1, 2]
    for number in at_each_folder(changes):
        folder = tmp_path / str(number)
        with killed_at_change(number), pytest.raises(KilledError):
            run_trial(folder)
        is_complete = bool(read_records(str(folder)))
        trained.clear()
        again = run_trial(folder)
        assert again[::2] == whole[::2], changes[number]
        assert trained == ([] if is_complete else [1e-3])


def test_the_end_of_a_search_writes_the_records_that_are_missing_and_no_other(run_trial, work, tmp_path):
    complete, _, _ = run_trial(tmp_path / "trials")
    recipe = config(work, fine_tuning=SETTINGS, space=SPACE)
    shared = SimpleNamespace(trials_folder=str(tmp_path / "trials"), seed=recipe.seed, stop_reason="behind others")
    experiment._CONTEXT.set(shared)
    samples = [
        TrialPoint(number, {"learning_rate": rate}) for number, rate in enumerate(SPACE["learning_rate"]["choice"])
    ]
    trials = [SimpleNamespace(config={"sample": dataclasses.asdict(sample)}) for sample in samples]
    experiment._MissingRecordsCallback().on_experiment_end(trials)
    records = [read_record(sample.folder(shared.trials_folder, recipe.seed)) for sample in samples]
    assert [record.status for record in records] == ["stopped", complete.status, "stopped"]
    assert [record.reason for record in records] == ["behind others", complete.reason, "behind others"]
