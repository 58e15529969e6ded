from types import SimpleNamespace

import pytest

from distilray.errors import InputError
from tests.tiny.search import config
from tuning import experiment
from tuning.search import concurrent_trials


@pytest.mark.parametrize(
    ("address", "max_minutes", "expected"),
    [(None, None, 3), ("10.0.0.1:6379", None, None), ("10.0.0.1:6379", 5, 3)],
    ids=["a local cluster cannot grow", "a cluster may grow", "with a time limit no task waits for the others"],
)
def test_trials_at_a_time(monkeypatch, tmp_path, address, max_minutes, expected):
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert concurrent_trials(config(tmp_path, max_minutes=max_minutes), slots=3) == expected


def test_an_input_error_inside_ray_tune_leaves_the_experiment_as_one(tmp_path, monkeypatch):
    class Tuner:
        def fit(self):
            try:
                raise InputError("/data/record.json: cannot be written")
            except InputError as error:
                raise RuntimeError("Ray Tune failed") from error

    monkeypatch.setattr(experiment, "_tuner", lambda _: Tuner())
    search = SimpleNamespace(context=SimpleNamespace(trials_folder=str(tmp_path)))
    with pytest.raises(InputError, match=r"^/data/record\.json: cannot be written$"):
        experiment.run_experiment(search)
