"""Values of a recipe reach Ray Tune and the training of a trial."""

import dataclasses
from types import SimpleNamespace

import pytest

from distilray.errors import InputError
from distilray.runtime import resources
from distilray.runtime.resources import Node
from distilray.runtime.run_folder import RunFolder
from tests.tiny.search import config
from tuning import experiment as module
from tuning import search
from tuning import trial as trial_module
from tuning.records import TrialPoint


class ReachedError(BaseException):
    """Raised at the call under test."""


@pytest.fixture
def experiment(work, tmp_path, monkeypatch):
    """Return the experiment that a recipe defines."""

    def run_experiment(defined):
        raise ReachedError(defined)

    def experiment(**changes):
        monkeypatch.setattr(search.ray, "is_initialized", lambda: True)
        monkeypatch.setattr(search.ray, "put", lambda value: value)
        monkeypatch.setattr(search.ray, "remote", lambda **_: lambda function: SimpleNamespace(remote=function))
        monkeypatch.setattr(search, "run_experiment", run_experiment)
        for user in (resources, search):
            monkeypatch.setattr(user, "cluster_nodes", lambda: [Node({"CPU": 4.0, "memory": 64.0 * 2**30})])
        recipe = config(work, run_dir=str(tmp_path / "run"), **changes)
        with pytest.raises(ReachedError) as reached:
            search.search_glue(recipe, RunFolder("search_glue", recipe, {}))
        return reached.value.args[0]

    return experiment


@pytest.fixture
def tuned(experiment, monkeypatch):
    """Return the experiment that a recipe defines, and its configuration of Ray Tune."""

    class Tuner:
        can_restore = staticmethod(lambda *_, **__: False)

        def __init__(self, trainable, **options):
            self.name, self.config = trainable.__name__, options["tune_config"]

        def fit(self):
            raise ReachedError(self.config, self.name)

    def tuned(**changes):
        monkeypatch.setattr(module.tune, "Tuner", Tuner)
        defined = experiment(**changes)
        with pytest.raises(ReachedError) as reached:
            module.run_experiment(defined)
        return defined, reached.value.args[0]

    return tuned


@pytest.mark.parametrize(
    ("minutes", "seconds", "reason"),
    [(None, None, "behind others"), (1.5, 90.0, "behind others or the time limit of the search was reached")],
)
def test_the_time_limit_of_a_search_reaches_ray_tune_and_the_records(tuned, minutes, seconds, reason):
    defined, tune_config = tuned(max_minutes=minutes)
    assert (tune_config.time_budget_s, defined.context.stop_reason) == (seconds, reason)


def test_the_settings_of_asha_reach_ray_tune(tuned):
    scheduler = tuned(asha={"grace_evaluations": 2, "reduction_factor": 4.0})[1].scheduler
    assert (scheduler._grace_period, scheduler._reduction_factor, scheduler._max_t) == (2, 4.0, 3)
    assert not hasattr(tuned(asha={"enabled": False})[1].scheduler, "_grace_period")


@pytest.mark.parametrize(("cpus", "concurrent"), [(1, 4), (2, 2)])
def test_trials_share_the_cpus_of_the_cluster(tuned, cpus, concurrent):
    defined, tune_config = tuned(trial={"cpus": cpus, "gpus": 0, "memory_gb": 3.0})
    assert defined.need.bundle() == {"CPU": cpus, "memory": 3_000_000_000}
    assert tune_config.max_concurrent_trials == concurrent


@pytest.mark.parametrize(("method", "trials", "samples"), [("random", 4, 1), ("tpe", 5, 5)])
def test_the_number_of_trials_is_that_of_the_recipe(tuned, method, trials, samples):
    defined, tune_config = tuned(method=method, num_trials=trials)
    assert (defined.num_trials, tune_config.num_samples) == (trials, samples)
    assert defined.points is None or len(defined.points) == trials


def test_a_complete_search_is_not_started_again(experiment, monkeypatch):
    defined = experiment()
    monkeypatch.setattr(module, "_tuner", lambda _: SimpleNamespace(fit=lambda: None))
    module.run_experiment(defined)
    monkeypatch.setattr(module, "_tuner", None)
    module.run_experiment(defined)


def test_an_input_error_wrapped_by_ray_tune_is_raised_itself(tmp_path, monkeypatch):
    def fit():
        try:
            raise InputError("/data/record.json: cannot be written")
        except InputError as error:
            raise RuntimeError("Ray Tune failed") from error

    monkeypatch.setattr(module, "_tuner", lambda _: SimpleNamespace(fit=fit))
    with pytest.raises(InputError, match=r"^/data/record\.json: cannot be written$"):
        module.run_experiment(SimpleNamespace(context=SimpleNamespace(trials_folder=str(tmp_path))))


@pytest.mark.parametrize(
    ("address", "max_minutes", "expected"),
    [(None, None, 3), ("10.0.0.1:6379", None, None), ("10.0.0.1:6379", 5, 3)],
    ids=["a local cluster cannot grow", "a cluster may grow", "with a time limit no task waits for the others"],
)
def test_the_number_of_concurrent_trials(monkeypatch, tmp_path, address, max_minutes, expected):
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert search.concurrent_trials(config(tmp_path, max_minutes=max_minutes), slots=3) == expected


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        ({"cpus": 0.5}, {"max_seconds": None, "threads": 1}),
        ({"cpus": 2}, {"max_seconds": None, "threads": 2}),
        ({"max_minutes": 1.5}, {"max_seconds": 90.0, "threads": 1, "hang_s": 2 * 90 + 300}),
    ],
)
def test_a_trial_computes_on_its_cpus_within_its_time(experiment, monkeypatch, trial, expected):
    used = {}

    def fine_tune(*_, max_seconds, **__):
        used["max_seconds"] = max_seconds
        raise ReachedError

    def timer(seconds, _):
        used["hang_s"] = seconds
        return SimpleNamespace(start=lambda: None, cancel=lambda: None)

    monkeypatch.setattr(trial_module.ray, "get", lambda value: value)
    monkeypatch.setattr(trial_module, "configure_cpu", lambda count: used.update(threads=count))
    monkeypatch.setattr(trial_module, "fine_tune", fine_tune)
    monkeypatch.setattr(trial_module.threading, "Timer", timer)
    context = experiment(trial={"cpus": 1, "gpus": 0, **trial}).context
    with pytest.raises(ReachedError):
        trial_module.fine_tune_trial({"sample": dataclasses.asdict(TrialPoint(0, {"learning_rate": 1e-3}))}, context)
    assert used == expected


def test_the_trials_of_each_task_have_their_own_name_in_ray_tune(tuned):
    defined, _ = tuned()
    names = set()
    for task in ("follows", "rte"):
        context = dataclasses.replace(defined.context, task=task)
        with pytest.raises(ReachedError) as reached:
            module.run_experiment(dataclasses.replace(defined, context=context))
        names.add(reached.value.args[1])
    assert len(names) == 2
