"""Search spaces: the points of a grid, random points, or ranges from which TPE samples. The first point of each is the
default settings.
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
    for name, values in space.items():
        _check_integer(config.task_config(task), name, values)
    first = first_point(config, task)
    if config.method == "grid":
        combinations = itertools.product(*((values.choice or []) for values in space.values()))
        return _distinct([first, *(dict(zip(space, chosen, strict=True)) for chosen in combinations)])
    return _random_points(space, first, config.num_trials, config.seed) if config.method == "random" else None


def first_point(config: SearchGlueConfig, task: TaskName) -> Values:
    """Return the default settings of a task, each replaced by the nearest value in its range.

    A setting without a default, such as `dropout`, gets the first value of its range.
    """
    settings = config.task_config(task)
    return {name: _nearest(values, getattr(settings, name)) for name, values in config.task_space(task).items()}


def tune_domains(space: Space) -> Values:
    """Return the ranges as domains of Ray Tune."""
    return {name: _domain(values) for name, values in space.items()}


def value_range(config: SearchGlueConfig, task: TaskName, name: str) -> tuple[Any, Any]:
    """Return the smallest and the largest value of a setting in the trials of a task."""
    values = config.task_space(task).get(name)
    if values is None:
        return getattr(config.task_config(task), name), getattr(config.task_config(task), name)
    ends: Any = values.choice or values.uniform or values.loguniform or values.integers
    return min(ends), max(ends)


def max_lengths(config: SearchGlueConfig, task: TaskName) -> list[int]:
    """Return all values of `max_length` in the trials of a task, which is tokenized once for each.

    Raises:
        InputError: the space has a range for it.
    """
    values = config.task_space(task).get("max_length")
    if values is None:
        return [config.task_config(task).max_length]
    if values.choice is None:
        raise InputError("space.max_length: give choice: [...]; the task is tokenized once for each value")
    return [with_values(config.task_config(task), {"max_length": value}).max_length for value in values.choice]


def evaluation_range(config: SearchGlueConfig, task: TaskName) -> tuple[int, int]:
    """Return the number of evaluations of the shortest and of the longest trial in the space of a task."""
    ends = zip(*(value_range(config, task, name) for name in ("epochs", "evaluations_per_epoch")), strict=True)
    fewest, most = (int(epochs) * int(per_epoch) for epochs, per_epoch in ends)
    return fewest, most


def _check_integer(settings: TaskConfig, name: str, values: RangeConfig) -> None:
    """Refuse a continuous range for an integer setting, by validating a value inside the range."""
    ends = values.uniform or values.loguniform
    if ends is None:
        return
    try:
        with_values(settings, {name: ends[0] + (ends[1] - ends[0]) / math.sqrt(5)})
    except ValueError:
        kind = "uniform" if values.uniform else "loguniform"
        raise InputError(
            f"space.{name}: {kind} gives fractions, but {name} is an integer; use integers: [low, high] or choice"
        ) from None


def _nearest(values: RangeConfig, default: Any) -> Any:
    if values.choice is None:
        low, high = values.integers or _ends(values.uniform or values.loguniform)
        return low if default is None else min(max(default, low), high)
    if default in values.choice:
        return values.choice[values.choice.index(default)]
    numbers = [value for value in values.choice if not isinstance(value, str)]
    if isinstance(default, int | float) and numbers:
        return min(numbers, key=lambda value: abs(value - default))
    return values.choice[0]


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


def _draw(values: RangeConfig, rng: np.random.Generator) -> Any:
    if values.choice is not None:
        return values.choice[int(rng.integers(len(values.choice)))]
    if values.integers is not None:
        return int(rng.integers(values.integers[0], values.integers[1], endpoint=True))
    if values.loguniform is not None:
        return float(np.exp(rng.uniform(*np.log(values.loguniform))))
    return float(rng.uniform(*_ends(values.uniform)))


def _domain(values: RangeConfig) -> Any:
    if values.choice is not None:
        return tune.choice(values.choice)
    if values.integers is not None:
        return tune.randint(values.integers[0], values.integers[1] + 1)  # excludes the upper bound
    if values.loguniform is not None:
        return tune.loguniform(*values.loguniform)
    return tune.uniform(*_ends(values.uniform))


def _ends(ends: tuple[float, float] | None) -> tuple[float, float]:
    assert ends is not None  # RangeConfig has exactly one kind
    return ends


def describe_space(space: Mapping[str, RangeConfig]) -> str:
    """Describe a space in one line, for the plan."""
    parts = []
    for name, values in space.items():
        kind, bounds = next((kind, bounds) for kind, bounds in values if bounds is not None)
        parts.append(f"{name} {kind} {list(bounds)}")
    return ", ".join(parts)
