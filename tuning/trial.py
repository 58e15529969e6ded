"""A trial as Ray Tune calls it. What it trains with is imported by the process that trains, which takes seconds."""

from collections.abc import Mapping
from typing import Any

from tuning.records import Objective


def run_trial(config: Mapping[str, Any], *, objective: Objective) -> None:
    """A trial, as Ray Tune calls it."""
    from tuning.objective import try_values

    try_values(config, objective)
