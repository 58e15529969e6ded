"""Values of a recipe reach Ray Tune and the training of a trial."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from distilray.runtime import resources
from distilray.runtime.resources import Node
from distilray.runtime.run_folder import RunFolder
from tests.tiny.search import config
from tuning import experiment as module
from tuning import search
from tuning import trial as trial_module
from tuning.records import TrialPoint
from tuning.space import tune_domains


class ReachedError(BaseException):
    """Raised at the call that a test is about."""


@pytest.fixture
def experiment(work, tmp_path, monkeypatch):
    """Return the experiment that a recipe defines."""

    def of(**changes):
        started = []
        remote = SimpleNamespace(remote=started.append)
        monkeypatch.setattr(search.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(search.ray, "put", lambda value: value)
        monkeypatch.setattr(search.ray, "remote", lambda **_: lambda _: remote)
        monkeypatch.setattr(search.ray, "wait", lambda *_, **__: (_ for _ in ()).throw(ReachedError))
        monkeypatch.setattr(search.ray, "cancel", lambda *_, **__: None)
        for user in (resources, search):
            monkeypatch.setattr(user, "cluster_nodes", lambda: [Node({"CPU": 4.0, "memory": 64.0 * 2**30})])
        recipe = config(work, run_dir=str(tmp_path / "run"), **changes)
        with pytest.raises(ReachedError):
            search.search_glue(recipe, RunFolder("search_glue", recipe, {}))
        return started[0]

    return of


@pytest.fixture
def tuner_of(monkeypatch):
    """Return the configuration that Ray Tune gets for an experiment."""

    class Tuner:
        can_restore = staticmethod(lambda *_, **__: False)

        def __init__(self, trainable, **options):
            self.trainable, self.options = trainable, options

        def fit(self):
            raise ReachedError(self)

    monkeypatch.setattr(module.tune, "Tuner", Tuner)

    def run(experiment):
        with pytest.raises(ReachedError) as reached:
            module.run_experiment(experiment)
        return reached.value.args[0].options["tune_config"]

    return run


@pytest.mark.parametrize(("minutes", "seconds"), [(None, None), (1.5, 90.0)])
def test_a_search_has_so_many_minutes(experiment, tuner_of, minutes, seconds):
    assert tuner_of(experiment(max_minutes=minutes)).time_budget_s == seconds


def test_the_settings_of_asha_reach_ray_tune(experiment, tuner_of):
    settings = {"grace_evaluations": 2, "reduction_factor": 4.0}
    scheduler = tuner_of(experiment(asha=settings)).scheduler
    assert (scheduler._grace_period, scheduler._reduction_factor, scheduler._max_t) == (2, 4.0, 3)
    assert not hasattr(tuner_of(experiment(asha={"enabled": False})).scheduler, "_grace_period")


@pytest.mark.parametrize(("cpus", "together"), [(1, 4), (2, 2)])
def test_trials_share_the_cpus_of_the_cluster(experiment, tuner_of, cpus, together):
    built = experiment(trial={"cpus": cpus, "gpus": 0})
    assert built.need.bundle()["CPU"] == cpus
    assert tuner_of(built).max_concurrent_trials == together


def test_the_memory_of_a_trial_is_that_of_the_recipe(experiment):
    assert experiment(trial={"cpus": 1, "gpus": 0, "memory_gb": 3.0}).need.memory == 3_000_000_000


@pytest.mark.parametrize(("method", "trials"), [("random", 4), ("tpe", 5)])
def test_a_search_has_so_many_trials(experiment, tuner_of, method, trials):
    built = experiment(method=method, num_trials=trials)
    samples = tuner_of(built).num_samples
    assert (len(built.points) if method == "random" else samples) == built.num_trials == trials


def test_tpe_draws_every_value_of_a_range_of_integers(work):
    space = {"epochs": {"integers": [2, 4]}, "batch_size": {"choice": [8, 16]}}
    drawn = [
        {name: domain.sample() for name, domain in tune_domains(config(work, method="tpe", space=space).space).items()}
        for _ in range(60)
    ]
    assert {values["epochs"] for values in drawn} == {2, 3, 4}
    assert {values["batch_size"] for values in drawn} == {8, 16}


def test_tpe_draws_a_range_of_logarithms_alike_in_each_decade(work):
    space = {"learning_rate": {"loguniform": [1e-6, 1e-2]}}
    (domain,) = tune_domains(config(work, method="tpe", space=space).space).values()
    drawn = np.array([domain.sample(random_state=seed) for seed in range(200)])
    assert 0.35 < (drawn < 1e-4).mean() < 0.65


def test_a_complete_search_is_not_started_again(experiment, monkeypatch):
    built = experiment()
    monkeypatch.setattr(module, "_tuner", lambda _: SimpleNamespace(fit=lambda: None))
    module.run_experiment(built)
    monkeypatch.setattr(module, "_tuner", None)
    module.run_experiment(built)


@pytest.fixture
def trained(experiment, monkeypatch):
    """Return the arguments with which a trial fine-tunes, and the seconds after which it counts as hanging."""

    def of(**trial):
        arguments = {}

        def fine_tune(*_, **options):
            arguments.update(options)
            raise ReachedError

        def timer(seconds, _):
            arguments["hang_s"] = seconds
            return SimpleNamespace(start=lambda: None, cancel=lambda: None)

        monkeypatch.setattr(trial_module.ray, "get", lambda value: value)
        monkeypatch.setattr(trial_module, "configure_cpu", lambda count: arguments.update(threads=count))
        monkeypatch.setattr(trial_module, "fine_tune", fine_tune)
        monkeypatch.setattr(trial_module.threading, "Timer", timer)
        built = experiment(trial={"cpus": 1, "gpus": 0, **trial}).context
        with pytest.raises(ReachedError):
            trial_module.fine_tune_trial({"sample": dataclasses.asdict(TrialPoint(0, {"learning_rate": 1e-3}))}, built)
        return arguments

    return of


@pytest.mark.parametrize(("minutes", "seconds"), [(None, None), (1.5, 90.0)])
def test_a_trial_has_so_many_minutes(trained, minutes, seconds):
    assert trained(max_minutes=minutes)["max_seconds"] == seconds


def test_a_trial_hangs_only_long_after_its_time(trained):
    assert trained(max_minutes=20.0)["hang_s"] > 2 * 60 * 20


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (2, 2)])
def test_a_trial_computes_on_its_cpus(trained, cpus, threads):
    assert trained(cpus=cpus)["threads"] == threads
