from types import SimpleNamespace

import numpy as np
import pytest

from distilray.errors import InputError
from tests.tiny.search import config
from tuning.experiment import _search_space_and_searcher
from tuning.space import (
    describe_space,
    evaluation_range,
    first_point,
    max_lengths,
    points,
    tune_domains,
    value_range,
)

RANGES = {
    "learning_rate": {"loguniform": [1e-5, 1e-3]},
    "dropout": {"uniform": [0.0, 0.4]},
    "batch_size": {"choice": [8, 16, 32]},
    "epochs": {"integers": [2, 4]},
}


@pytest.fixture
def points_of(tmp_path):
    return lambda method="random", **changes: points(config(tmp_path, method=method, **changes), "follows")


def test_a_grid_is_every_combination_once(points_of):
    space = {"learning_rate": {"choice": [1e-5, 2e-5]}, "epochs": {"choice": [2, 3, 3]}}
    grid = [tuple(values.values()) for values in points_of("grid", space=space, fine_tuning={"epochs": 2})]
    assert sorted(grid) == [(1e-5, 2), (1e-5, 3), (2e-5, 2), (2e-5, 3)]


@pytest.mark.parametrize(("method", "count"), [("grid", 6), ("random", 4)])
def test_the_first_trial_has_the_default_settings(points_of, method, count):
    space = {"learning_rate": {"choice": [1e-5, 3e-5, 5e-5]}, "batch_size": {"choice": [16, 32]}}
    settings = {"learning_rate": 3e-5, "batch_size": 32}
    drawn = points_of(method, space=space, num_trials=4, fine_tuning=settings)
    assert drawn[0] == settings
    assert (len(drawn), drawn.count(settings)) == (count, 1)


@pytest.mark.parametrize(
    ("name", "values", "default", "expected"),
    [
        ("learning_rate", {"loguniform": [1e-5, 1e-3]}, 3e-5, 3e-5),
        ("learning_rate", {"loguniform": [5e-5, 1e-3]}, 3e-5, 5e-5),
        ("warmup_fraction", {"uniform": [0.0, 0.05]}, 0.1, 0.05),
        ("epochs", {"integers": [4, 10]}, 3, 4),
        ("batch_size", {"choice": [8, 16, 64]}, 32, 16),
        ("schedule", {"choice": ["cosine", "linear"]}, "linear", "linear"),
        ("schedule", {"choice": ["cosine"]}, "linear", "cosine"),
        ("dropout", {"choice": [0.1, 0.2]}, None, 0.1),
        ("dropout", {"uniform": [0.1, 0.2]}, None, 0.1),
    ],
)
def test_a_default_outside_its_range_moves_to_the_nearest_value(tmp_path, name, values, default, expected):
    recipe = config(tmp_path, method="random", space={name: values}, fine_tuning={name: default})
    assert first_point(recipe, "follows") == {name: expected}


def test_random_and_tpe_values_cover_their_ranges(tmp_path, points_of):
    drawn = points_of(space=RANGES, num_trials=60)
    assert len({tuple(values.values()) for values in drawn}) == 60
    domains = tune_domains(config(tmp_path, method="tpe", space=RANGES).space)
    sampled = [{name: domain.sample(random_state=seed) for name, domain in domains.items()} for seed in range(200)]
    for samples in (drawn, sampled):
        values = {name: np.array([point[name] for point in samples]) for name in RANGES}
        rates, dropouts = values["learning_rate"], values["dropout"]
        assert 1e-5 <= rates.min() < rates.max() <= 1e-3
        assert 0.3 < (rates < 1e-4).mean() < 0.7  # half of a logarithmic range
        assert sorted(set(values["batch_size"])) == [8, 16, 32]
        assert sorted(set(values["epochs"])) == [2, 3, 4]
        assert 0.0 <= dropouts.min() < 0.1 < 0.3 < dropouts.max() <= 0.4


def test_random_points_depend_only_on_the_seed_and_their_ranges(points_of):
    drawn = points_of(space=RANGES, num_trials=5, seed=56)
    assert points_of(space=RANGES, num_trials=9, seed=56)[:5] == drawn
    assert points_of(space=RANGES, num_trials=5, seed=57) != drawn
    fewer = {name: values for name, values in RANGES.items() if name != "dropout"}
    assert points_of(space=fewer, num_trials=5, seed=56) == [{name: each[name] for name in fewer} for each in drawn]


def test_a_small_space_gives_each_point_once(points_of):
    space = {"batch_size": {"choice": [8, 16]}, "epochs": {"integers": [2, 3]}}
    assert len(points_of(space=space, num_trials=50)) == 4


def test_tpe_chooses_during_the_search_after_the_default_settings(tmp_path, points_of):
    assert points_of("tpe", space=RANGES) is None
    recipe = config(tmp_path, method="tpe", space=RANGES, fine_tuning={"batch_size": 16, "dropout": 0.2})
    first, context = first_point(recipe, "follows"), SimpleNamespace(seed=5)
    experiment = SimpleNamespace(context=context, points=None, space=recipe.task_space("follows"), first_point=first)
    space, searcher = _search_space_and_searcher(experiment)
    searcher.set_search_properties("best", "max", space)
    values = {"learning_rate": 3e-5, "dropout": 0.2, "batch_size": 16, "epochs": 3}
    assert searcher.suggest("a")["sample"] == {"number": 0, "values": values, "repeat": 0}
    assert searcher.suggest("b")["sample"]["number"] == 1


def test_a_continuous_range_of_an_integer_is_refused_with_the_fix(tmp_path, points_of):
    with pytest.raises(InputError, match=r"space\.batch_size: uniform gives fractions.*integers"):
        points_of(space={"batch_size": {"uniform": [8, 16]}})
    with pytest.raises(InputError, match=r"space\.epochs: loguniform gives fractions.*integers"):
        points_of(space={"epochs": {"loguniform": [1, 4]}})
    recipe = config(tmp_path, method="random", space={"max_length": {"integers": [16, 32]}})
    with pytest.raises(InputError, match=r"space\.max_length: give choice"):
        max_lengths(recipe, "follows")


def test_the_ranges_of_a_task_replace_the_general_ones(tmp_path):
    own = {"follows": {"epochs": {"choice": [5]}}}
    recipe = config(tmp_path, space={"epochs": {"choice": [2, 3]}}, per_task_space=own)
    assert value_range(recipe, "follows", "epochs") == (5, 5)
    assert describe_space(recipe.task_space("follows")) == "epochs choice [5]"


def test_lengths_and_evaluations_of_all_trials_follow_from_the_space(tmp_path):
    space = {"epochs": {"integers": [2, 4]}, "evaluations_per_epoch": {"choice": [1, 3]}}
    assert evaluation_range(config(tmp_path, method="random", space=space), "follows") == (2, 12)
    assert evaluation_range(config(tmp_path), "follows") == (3, 3)
    assert max_lengths(config(tmp_path, space={"max_length": {"choice": [16, 32]}}), "follows") == [16, 32]
    assert max_lengths(config(tmp_path), "follows") == [32]
