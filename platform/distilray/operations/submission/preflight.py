"""What a request asks of a cluster beyond the machines that it has now. A hint only: it may grow."""

from collections.abc import Mapping, Sequence

from distilray.config.base import JobConfig
from distilray.operations.submission.cluster import DriverResources

_GROWS = "unless the autoscaler starts machines for it (what it may start is not known here)"


def doubts(driver: DriverResources, config: JobConfig, machines: Sequence[Mapping[str, float]]) -> list[str]:
    """What the machines of now cannot give, a line each.

    Args:
        driver: what is reserved for the command itself, all of it on one machine.
        machines: the resources of each.
    """
    lines = []
    needs = driver.needs()
    if needs and not any(all(machine.get(name, 0) >= need for name, need in needs.items()) for machine in machines):
        asked = " and ".join(_amount(name, need) for name, need in needs.items())
        lines.append(f"no machine has {asked} for the command itself: it stays PENDING {_GROWS}")
    for name, need in _workers(config).items():
        have = sum(machine.get(name, 0) for machine in machines)
        if need > have:
            lines.append(
                f"the workers need {_amount(name, need)}, the cluster has {have:g} now: the run waits {_GROWS}"
            )
    return lines


def _workers(config: JobConfig) -> dict[str, float]:
    """What the workers of a training ask for at least; other jobs take what there is."""
    scaling = getattr(config, "scaling", None)
    count = getattr(scaling, "min_workers", None) or getattr(scaling, "num_workers", None)
    if count is None:
        return {}
    needs = {"CPU": count * getattr(scaling, "cpus_per_worker", 0), "GPU": count * getattr(scaling, "use_gpu", False)}
    return {name: float(need) for name, need in needs.items() if need}


def _amount(name: str, need: float) -> str:
    return f"{need / 1e9:.1f} GB of memory" if name == "memory" else f"{need:g} {name}"
