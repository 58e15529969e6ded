"""Search spaces: the points of a grid, random points, or ranges from which TPE samples.

The first point of every space is the default settings.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ray import tune

from distilray.config.glue import RangeConfig, SearchGlueConfig, Space, TaskConfig, TaskName, with_values
from distilray.errors import InputError
from distilray.runtime.seeding import generator, hash_integers

Values = dict[str, Any]
_MAX_DRAWS = 1000  # after this many duplicates in a row, the space is considered exhausted


def points(config: SearchGlueConfig, task: TaskName) -> list[Values] | None:
    """Return the distinct points of all trials of a task in order; None for TPE, which chooses them during the search.

    The first is `first_point`. A grid contains every combination; its last parameter varies fastest. Random points
    depend only on the seed and the space of the task. There are fewer than `num_trials` if the space is small.

    Raises:
        InputError: an integer setting has a continuous range.
    """
    space = config.task_space(task)
    for name, search_range in space.items():
        _check_integer(config.task_config(task), name, search_range)
    first = first_point(config, task)
    if config.method == "grid":
        combinations = itertools.product(*((search_range.choice or []) for search_range in space.values()))
        return _distinct([first, *(dict(zip(space, chosen, strict=True)) for chosen in combinations)])
    return _random_points(space, first, config.num_trials, config.seed) if config.method == "random" else None


def first_point(config: SearchGlueConfig, task: TaskName) -> Values:
    """Return the default settings of a task, each replaced by the nearest value in its range.

    A setting without a default, such as `dropout`, gets the first value of its range.
    """
    settings = config.task_config(task)
    return {
        name: _nearest(search_range, getattr(settings, name)) for name, search_range in config.task_space(task).items()
    }


def tune_domains(space: Space) -> Values:
    """Return the ranges as domains of Ray Tune."""
    return {name: _domain(search_range) for name, search_range in space.items()}


def value_range(config: SearchGlueConfig, task: TaskName, name: str) -> tuple[Any, Any]:
    """Return the smallest and the largest value of a setting in the trials of a task."""
    search_range = config.task_space(task).get(name)
    if search_range is None:
        return getattr(config.task_config(task), name), getattr(config.task_config(task), name)
    ends: Any = search_range.choice or search_range.uniform or search_range.loguniform or search_range.integers
    return min(ends), max(ends)


def max_lengths(config: SearchGlueConfig, task: TaskName) -> list[int]:
    """Return all values of `max_length` in the trials of a task, which is tokenized once for each.

    Raises:
        InputError: the space has a range for it.
    """
    search_range = config.task_space(task).get("max_length")
    if search_range is None:
        return [config.task_config(task).max_length]
    if search_range.choice is None:
        raise InputError("space.max_length: give choice: [...]; the task is tokenized once for each value")
    return [with_values(config.task_config(task), {"max_length": value}).max_length for value in search_range.choice]


def evaluation_range(config: SearchGlueConfig, task: TaskName) -> tuple[int, int]:
    """Return the number of evaluations of the shortest and of the longest trial in the space of a task."""
    ends = zip(*(value_range(config, task, name) for name in ("epochs", "evaluations_per_epoch")), strict=True)
    fewest, most = (int(epochs) * int(per_epoch) for epochs, per_epoch in ends)
    return fewest, most


def _check_integer(settings: TaskConfig, name: str, search_range: RangeConfig) -> None:
    """Refuse a continuous range for an integer setting, by validating a value inside the range."""
    ends = search_range.uniform or search_range.loguniform
    if ends is None:
        return
    try:
        with_values(settings, {name: ends[0] + (ends[1] - ends[0]) / math.sqrt(5)})
    except ValueError:
        kind = "uniform" if search_range.uniform else "loguniform"
        raise InputError(
            f"space.{name}: {kind} gives fractions, but {name} is an integer; use integers: [low, high] or choice"
        ) from None


def _nearest(search_range: RangeConfig, default: Any) -> Any:
    if search_range.choice is None:
        low, high = search_range.integers or _ends(search_range.uniform or search_range.loguniform)
        return low if default is None else min(max(default, low), high)
    if default in search_range.choice:
        return search_range.choice[search_range.choice.index(default)]
    numbers = [value for value in search_range.choice if not isinstance(value, str)]
    if isinstance(default, int | float) and numbers:
        return min(numbers, key=lambda value: abs(value - default))
    return search_range.choice[0]


def _distinct(points: Iterable[Values]) -> list[Values]:
    return list({tuple(values.items()): values for values in points}.values())


def _random_points(space: Space, first: Values, count: int, seed: int) -> list[Values]:
    known: dict[tuple[Any, ...], Values] = {tuple(first.values()): first}
    for number in range(1, count):
        for draw in range(_MAX_DRAWS):
            # Each parameter has its own generator, so that adding one to the recipe does not change the others.
            values = {name: _draw(space[name], generator(seed, number, draw, _name_seed(name))) for name in space}
            if tuple(values.values()) not in known:
                known[tuple(values.values())] = values
                break
        else:
            break
    return list(known.values())


def _name_seed(name: str) -> int:
    """Return an integer that depends only on the name, unlike `hash`."""
    hashed = hash_integers(0, *name.encode())
    return int(hashed)


def _draw(search_range: RangeConfig, rng: np.random.Generator) -> Any:
    if search_range.choice is not None:
        return search_range.choice[int(rng.integers(len(search_range.choice)))]
    if search_range.integers is not None:
        return int(rng.integers(search_range.integers[0], search_range.integers[1], endpoint=True))
    if search_range.loguniform is not None:
        return float(np.exp(rng.uniform(*np.log(search_range.loguniform))))
    return float(rng.uniform(*_ends(search_range.uniform)))


def _domain(search_range: RangeConfig) -> Any:
    if search_range.choice is not None:
        return tune.choice(search_range.choice)
    if search_range.integers is not None:
        return tune.randint(search_range.integers[0], search_range.integers[1] + 1)  # excludes the upper bound
    if search_range.loguniform is not None:
        return tune.loguniform(*search_range.loguniform)
    return tune.uniform(*_ends(search_range.uniform))


def _ends(ends: tuple[float, float] | None) -> tuple[float, float]:
    assert ends is not None  # RangeConfig has exactly one kind
    return ends


def describe_space(space: Mapping[str, RangeConfig]) -> str:
    """Describe a space in one line, for the plan."""
    parts = []
    for name, search_range in space.items():
        kind, bounds = next((kind, bounds) for kind, bounds in search_range if bounds is not None)
        parts.append(f"{name} {kind} {list(bounds)}")
    return ", ".join(parts)
