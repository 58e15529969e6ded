"""Devices and machines from the table in `machines.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distilray.config.base import Precision
from distilray.config.plan import ClusterConfig
from distilray.errors import InputError
from distilray.models.flops import peak_flops

CPU = "CPU core"


@dataclass(frozen=True)
class Device:
    """A GPU or one CPU core; `machines.yaml` describes the fields."""

    name: str
    memory_gb: float
    memory_gb_per_s: float
    link_gb_per_s: float
    fp32_flops_per_s: float | None = None
    bf16_flops_per_s: float | None = None
    mfu: Mapping[Precision, float] = field(default_factory=dict)
    source: str = ""

    @property
    def is_gpu(self) -> bool:
        """True for a GPU, which is used by a single worker; CPU workers share the cores of their machine."""
        return self.name != CPU

    def peak(self, precision: Precision) -> float | None:
        """Return the peak FLOPs per second, or None if the precision is not supported."""
        if self.is_gpu:
            return peak_flops(self.name, precision)
        return {"fp32": self.fp32_flops_per_s, "bf16": self.bf16_flops_per_s}.get(precision)


@dataclass(frozen=True)
class Machine:
    """A machine type; `machines.yaml` describes the fields."""

    name: str
    device: Device
    num_devices: int
    cores: int
    network_gbit_per_s: float
    price_per_hour: float
    spot_price_per_hour: float | None = None


_TABLE: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("machines.yaml").read_text(encoding="utf-8"))
DEVICES = {name: Device(name, **values) for name, values in _TABLE["devices"].items()}
MACHINES = {name: Machine(name, DEVICES[device], *values) for name, (device, *values) in _TABLE["machines"].items()}


def find_machine(name: str, key: str) -> Machine:
    """Return the machine with this name.

    Args:
        key: recipe key, for the error message.

    Raises:
        InputError: the table has no machine of this name.
    """
    if name not in MACHINES:
        raise InputError(f"{key}: no machine '{name}' in the table; choose one of {', '.join(MACHINES)}")
    return MACHINES[name]


def price_of(machine: Machine, cluster: ClusterConfig) -> float:
    """Return the price of the training machine in US dollars per hour.

    Raises:
        InputError: neither the recipe nor the table has a price.
    """
    if cluster.price_per_machine_hour is not None:
        return cluster.price_per_machine_hour
    price = machine.spot_price_per_hour if cluster.market == "spot" else machine.price_per_hour
    if price is None:
        raise InputError(
            f"cluster.market: the table has no {cluster.market} price for {machine.name}; "
            "set cluster.price_per_machine_hour"
        )
    return price
