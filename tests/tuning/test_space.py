from types import SimpleNamespace

import numpy as np
import pytest

from distilray.errors import InputError
from tests.tiny.search import config
from tuning.experiment import _search_space_and_searcher
from tuning.space import evaluation_range, first_point, max_lengths, points, value_range

RANGES = {
    "learning_rate": {"loguniform": [1e-5, 1e-3]},
    "dropout": {"uniform": [0.0, 0.4]},
    "batch_size": {"choice": [8, 16, 32]},
    "epochs": {"integers": [2, 4]},
}


def task_points(tmp_path, **changes):
    return points(config(tmp_path, **changes), "follows")


def test_a_grid_is_every_combination_once(tmp_path):
    space = {"learning_rate": {"choice": [1e-5, 2e-5]}, "epochs": {"choice": [2, 3, 3]}}
    grid = [tuple(values.values()) for values in task_points(tmp_path, space=space, fine_tuning={"epochs": 2})]
    assert sorted(grid) == [(1e-5, 2), (1e-5, 3), (2e-5, 2), (2e-5, 3)]


@pytest.mark.parametrize("method", ["grid", "random"])
def test_the_first_trial_has_the_default_settings(tmp_path, method):
    space = {"learning_rate": {"choice": [1e-5, 3e-5, 5e-5]}, "batch_size": {"choice": [16, 32]}}
    settings = {"learning_rate": 3e-5, "batch_size": 32}
    drawn = task_points(tmp_path, method=method, space=space, num_trials=4, fine_tuning=settings)
    assert drawn[0] == settings
    assert drawn.count(settings) == 1
    assert len(drawn) == (6 if method == "grid" else 4)


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
    changed = config(tmp_path, method="random", space={name: values}, fine_tuning={name: default})
    assert first_point(changed, "follows") == {name: expected}


def test_random_points_are_different_and_inside_their_ranges(tmp_path):
    drawn = task_points(tmp_path, method="random", space=RANGES, num_trials=60)
    assert len({tuple(values.values()) for values in drawn}) == 60
    rates = np.array([values["learning_rate"] for values in drawn])
    assert ((rates >= 1e-5) & (rates <= 1e-3)).all()
    assert 0.3 < (rates < 1e-4).mean() < 0.7  # half of a logarithmic range
    assert {values["batch_size"] for values in drawn} == {8, 16, 32}
    assert {values["epochs"] for values in drawn} == {2, 3, 4}
    assert all(0.0 <= values["dropout"] <= 0.4 for values in drawn)


def test_the_same_seed_draws_the_same_points_and_another_seed_others(tmp_path):
    one, again, other = (task_points(tmp_path, method="random", space=RANGES, seed=seed) for seed in (56, 56, 57))
    assert one == again
    assert one != other


def test_more_trials_begin_with_the_points_of_fewer(tmp_path):
    few, many = (task_points(tmp_path, method="random", space=RANGES, num_trials=count) for count in (5, 9))
    assert many[:5] == few


def test_a_parameter_more_does_not_change_the_others(tmp_path):
    fewer = {name: values for name, values in RANGES.items() if name != "dropout"}
    all_of, some = (task_points(tmp_path, method="random", space=space) for space in (RANGES, fewer))
    assert [{name: values[name] for name in fewer} for values in all_of] == some


def test_a_space_of_few_points_gives_each_once(tmp_path):
    space = {"batch_size": {"choice": [8, 16]}, "epochs": {"integers": [2, 3]}}
    assert len(task_points(tmp_path, method="random", space=space, num_trials=50)) == 4


def test_tpe_chooses_as_it_goes(tmp_path):
    assert task_points(tmp_path, method="tpe", space=RANGES) is None


def test_tpe_starts_with_the_default_settings(tmp_path):
    changed = config(tmp_path, method="tpe", space=RANGES, fine_tuning={"batch_size": 16, "dropout": 0.2})
    experiment = SimpleNamespace(
        context=SimpleNamespace(seed=5),
        points=None,
        space=changed.task_space("follows"),
        first_point=first_point(changed, "follows"),
    )
    space, searcher = _search_space_and_searcher(experiment)
    searcher.set_search_properties("best", "max", space)
    assert searcher.suggest("a")["sample"] == {
        "number": 0,
        "values": {"learning_rate": 3e-5, "dropout": 0.2, "batch_size": 16, "epochs": 3},
        "repeat": 0,
    }
    assert searcher.suggest("b")["sample"]["number"] == 1


def test_a_range_of_fractions_for_an_integer_is_refused_with_the_fix(tmp_path):
    with pytest.raises(InputError, match=r"space\.batch_size: uniform gives fractions.*integers"):
        task_points(tmp_path, method="random", space={"batch_size": {"uniform": [8, 16]}})


def test_the_ranges_of_a_task_replace_the_general_ones(tmp_path):
    own = {"follows": {"epochs": {"choice": [5]}}}
    changed = config(tmp_path, space={"epochs": {"choice": [2, 3]}}, per_task_space=own)
    assert value_range(changed, "follows", "epochs") == (5, 5)


def test_evaluations_are_those_of_the_shortest_and_the_longest_trial(tmp_path):
    space = {"epochs": {"integers": [2, 4]}, "evaluations_per_epoch": {"choice": [1, 3]}}
    assert evaluation_range(config(tmp_path, method="random", space=space), "follows") == (2, 12)
    assert evaluation_range(config(tmp_path), "follows") == (3, 3)


def test_a_task_is_tokenized_for_each_length_of_the_space(tmp_path):
    assert max_lengths(config(tmp_path, space={"max_length": {"choice": [16, 32]}}), "follows") == [16, 32]
    assert max_lengths(config(tmp_path), "follows") == [32]
    with pytest.raises(InputError, match="max_length"):
        max_lengths(config(tmp_path, method="random", space={"max_length": {"integers": [16, 32]}}), "follows")
