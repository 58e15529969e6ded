"""Values that a search tries: the points of a grid, points drawn at random, or ranges that TPE draws from.

Each begins with the default settings.
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
_DRAWS_OF_A_POINT = 1000  # after so many in a row that are known already, the space has no more


def points(config: SearchGlueConfig, task: TaskName) -> list[Values] | None:
    """What each trial of a task tries, all different and in the order of trials; None when TPE chooses as it goes.

    The first is `first_point`. A grid is every combination, the last parameter varying fastest. Random points depend on
    the seed and the task's space alone, and are fewer than `num_trials` when the space holds no more.

    Raises:
        InputError: a setting that is a whole number has a range of fractions.
    """
    space = config.task_space(task)
    for name, values in space.items():
        _check_whole(config.task_config(task), name, values)
    first = first_point(config, task)
    if config.method == "grid":
        combinations = itertools.product(*((values.choice or []) for values in space.values()))
        return _distinct([first, *(dict(zip(space, chosen, strict=True)) for chosen in combinations)])
    return _random_points(space, first, config.num_trials, config.seed) if config.method == "random" else None


def first_point(config: SearchGlueConfig, task: TaskName) -> Values:
    """Return the default settings of a task, each at the nearest value of its range.

    A setting without a default, such as `dropout`, has the first value of its range.
    """
    settings = config.task_config(task)
    return {name: _nearest(values, getattr(settings, name)) for name, values in config.task_space(task).items()}


def domains(space: Space) -> Values:
    """The ranges as Ray Tune names them, for a searcher that draws from them."""
    return {name: _domain(values) for name, values in space.items()}


def extremes(config: SearchGlueConfig, task: TaskName, name: str) -> tuple[Any, Any]:
    """The smallest and the largest value that a setting takes in the trials of a task."""
    values = config.task_space(task).get(name)
    if values is None:
        return getattr(config.task_config(task), name), getattr(config.task_config(task), name)
    ends: Any = values.choice or values.uniform or values.loguniform or values.integers
    return min(ends), max(ends)


def lengths(config: SearchGlueConfig, task: TaskName) -> list[int]:
    """The values of `max_length` in the trials of a task: it is tokenised once for each.

    Raises:
        InputError: the space has a range of them.
    """
    values = config.task_space(task).get("max_length")
    if values is None:
        return [config.task_config(task).max_length]
    if values.choice is None:
        raise InputError("space.max_length: give choice: [...]; the task is tokenised once for each value")
    return [with_values(config.task_config(task), {"max_length": value}).max_length for value in values.choice]


def evaluations(config: SearchGlueConfig, task: TaskName) -> tuple[int, int]:
    """Evaluations of the shortest and of the longest trial that the space of a task allows, if it goes to its end."""
    ends = zip(*(extremes(config, task, name) for name in ("epochs", "evaluations_per_epoch")), strict=True)
    fewest, most = (int(epochs) * int(in_each) for epochs, in_each in ends)
    return fewest, most


def _check_whole(settings: TaskConfig, name: str, values: RangeConfig) -> None:
    """Refuses fractions for a whole number: the ends of a range may be whole, what lies between them is not."""
    ends = values.uniform or values.loguniform
    if ends is None:
        return
    try:
        with_values(settings, {name: ends[0] + (ends[1] - ends[0]) / math.sqrt(5)})
    except ValueError:
        kind = "uniform" if values.uniform else "loguniform"
        raise InputError(
            f"space.{name}: {kind} gives fractions, {name} is a whole number; use integers: [low, high] or choice"
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
        for draw in range(_DRAWS_OF_A_POINT):
            values = {
                name: _drawn(space[name], generator(seed, number, draw, _word(name))) for name in space
            }  # each parameter by itself: another one in the recipe changes none of the rest
            if tuple(values.values()) not in known:
                known[tuple(values.values())] = values
                break
        else:
            break
    return list(known.values())


def _word(name: str) -> int:
    """A number for a name, the same in every process."""
    hashed = hash_integers(0, *name.encode())
    return int(hashed)


def _drawn(values: RangeConfig, rng: np.random.Generator) -> Any:
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
        return tune.randint(values.integers[0], values.integers[1] + 1)  # its upper end is left out
    if values.loguniform is not None:
        return tune.loguniform(*values.loguniform)
    return tune.uniform(*_ends(values.uniform))


def _ends(ends: tuple[float, float] | None) -> tuple[float, float]:
    assert ends is not None  # RangeConfig holds one kind
    return ends


def described(space: Mapping[str, RangeConfig]) -> str:
    """A space in one line, for the plan."""
    parts = []
    for name, values in space.items():
        kind, given = next((kind, given) for kind, given in values if given is not None)
        parts.append(f"{name} {kind} {list(given)}")
    return ", ".join(parts)
