"""Compares the resources of a job with the current machines of the cluster. A hint only: the cluster may grow."""

from collections.abc import Mapping, Sequence

from distilray.config.base import JobConfig
from distilray.operations.submission.cluster import DriverResources, format_amount

_WAITS = "the job waits while Ray requests them from the autoscaler; without an autoscaler it will not start"


def doubts(driver: DriverResources, config: JobConfig, machines: Sequence[Mapping[str, float]]) -> list[str]:
    """Returns a line for each resource that the current machines lack.

    Args:
        driver: reserved for the driver, all of it on one machine.
        machines: the resources of each.
    """
    lines = []
    needs = driver.needs()
    if needs and not any(all(machine.get(name, 0) >= need for name, need in needs.items()) for machine in machines):
        lines.append(f"no machine has {driver} for the driver now: {_WAITS}")
    for name, need in _workers(config).items():
        have = sum(machine.get(name, 0) for machine in machines)
        if need > have:
            lines.append(f"the workers need {format_amount(name, need)}, the cluster has {have:g} now: {_WAITS}")
    return lines


def _workers(config: JobConfig) -> dict[str, float]:
    """The least that the workers of a training run request; other jobs use what is available."""
    scaling = getattr(config, "scaling", None)
    count = getattr(scaling, "min_workers", None) or getattr(scaling, "num_workers", None)
    if count is None:
        return {}
    needs = {"CPU": count * getattr(scaling, "cpus_per_worker", 0), "GPU": count * getattr(scaling, "use_gpu", False)}
    return {name: float(need) for name, need in needs.items() if need}
