"""Devices and machines: public facts, and assumptions about the share of the peak that a run reaches.

A price is in US dollars for an hour in us-east-1 with Linux, as listed by AWS after its cuts of June 2025; of p5en as
listed in August 2026. None was looked up by a program: `cluster.price_per_machine_hour` says what you pay.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from distilray.config.operations.capacity import ClusterConfig, Precision
from distilray.errors import InputError
from distilray.models.flops import peak_flops

CPU = "CPU core"


@dataclass(frozen=True)
class Device:
    """A GPU, or one core of a CPU.

    Attributes:
        name: as NVIDIA's driver tells it.
        memory_gb, memory_gb_per_s: of the data sheet.
        link_gb_per_s: what an all-reduce moves between devices of one machine; about 3/4 of one direction of NVLink,
            a third of PCIe's. An assumption.
        fp32_flops_per_s: peak of the data sheet, without TF32.
        mfu: share of the peak that training a model of BERT's size reaches, by precision.
        measured: the precisions whose share somebody has measured; of others it is an assumption.
        source: of what was measured.
    """

    name: str
    memory_gb: float
    memory_gb_per_s: float
    link_gb_per_s: float
    fp32_flops_per_s: float
    mfu: Mapping[Precision, float]
    measured: tuple[Precision, ...] = ()
    source: str = "assumed, as no run of BERT is known to us"

    def source_of(self, precision: Precision) -> str:
        """Return the source of its share of the peak in that precision."""
        return self.source if precision in self.measured else Device.source

    @property
    def is_gpu(self) -> bool:
        """Workers have one GPU each, but share the cores of a CPU."""
        return self.name != CPU

    def peak(self, precision: Precision) -> float | None:
        """Return flops per second; None if it does not support that precision."""
        if not self.is_gpu:
            return _CORE_PEAKS.get(precision)
        return self.fp32_flops_per_s if precision == "fp32" else peak_flops(self.name, precision)


@dataclass(frozen=True)
class Machine:
    """A type of machine.

    Attributes:
        count: its devices: GPUs, or cores.
        cores: virtual CPUs.
        network_gbit_per_s: to other machines.
        price_per_hour, spot_price_per_hour: US dollars; None where no price of spot machines is known.
    """

    name: str
    device: Device
    count: int
    cores: int
    network_gbit_per_s: float
    price_per_hour: float
    spot_price_per_hour: float | None = None


# Of one core of the machine of docs/benchmarks.md (AVX-512 BF16, no AMX): 190 and 420 GF/s with two.
_CORE_PEAKS: Mapping[Precision, float] = {"fp32": 95e9, "bf16": 210e9}

# BERT large, 512 tokens, 80 predictions, 8 GPUs: 39.2 sequences/s in fp32 (2 for each GPU) and 151.4 in fp16 (4), in
# NVIDIA's DeepLearningExamples; a sequence is 1.02 TF by `step_flops`.
_NVIDIA = "NVIDIA DeepLearningExamples, BERT large on a DGX-1 with 8 V100 of 16 GB"
# 286,720,000 sequences of 128 tokens in 11.5 h on 8 GPUs of 80 GB; one is 86 GF, its head at every position.
_MOSAIC = "MosaicBERT (Portes et al. 2023): BERT base of Hugging Face on 8 A100"
# 627 GF of a micro-step in 4.0 s (fp32) and 2.1 s (bf16).
_HERE = "docs/benchmarks.md, the training step"

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        Device("V100", 16, 900, 110, 15.7e12, {"fp32": 0.32, "fp16": 0.15}, ("fp32", "fp16"), _NVIDIA),
        Device("A10G", 24, 600, 10, 31.2e12, {"fp32": 0.40, "fp16": 0.35, "bf16": 0.35}),
        Device("L4", 24, 300, 6, 30.3e12, {"fp32": 0.30, "fp16": 0.30, "bf16": 0.30}),
        Device("L40S", 48, 864, 12, 91.6e12, {"fp32": 0.30, "fp16": 0.25, "bf16": 0.25}),
        Device("A100", 40, 1555, 225, 19.5e12, {"fp32": 0.50, "fp16": 0.24, "bf16": 0.24}, ("bf16",), _MOSAIC),
        Device("H100", 80, 3350, 340, 67e12, {"fp32": 0.40, "fp16": 0.20, "bf16": 0.20}),
        Device("H200", 141, 4800, 340, 67e12, {"fp32": 0.40, "fp16": 0.20, "bf16": 0.20}),
        Device(CPU, 4, 10, 1, _CORE_PEAKS["fp32"], {"fp32": 0.82, "bf16": 0.72}, ("fp32", "bf16"), _HERE),
    )
}

MACHINES: Mapping[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine("p3.16xlarge", DEVICES["V100"], 8, 64, 25, 24.48),
        Machine("g5.xlarge", DEVICES["A10G"], 1, 4, 2.5, 1.006),  # up to 10 Gbit/s for a while
        Machine("g5.48xlarge", DEVICES["A10G"], 8, 192, 100, 16.288),
        Machine("g6.xlarge", DEVICES["L4"], 1, 4, 2.5, 0.8048),
        Machine("g6.48xlarge", DEVICES["L4"], 8, 192, 100, 13.35),
        Machine("g6e.xlarge", DEVICES["L40S"], 1, 4, 2.5, 1.861),
        Machine("g6e.48xlarge", DEVICES["L40S"], 8, 192, 400, 30.13),
        Machine("p4d.24xlarge", DEVICES["A100"], 8, 96, 400, 21.96),
        Machine("p5.48xlarge", DEVICES["H100"], 8, 192, 3200, 55.04),
        Machine("p5en.48xlarge", DEVICES["H200"], 8, 192, 3200, 63.3, 27.0),
        Machine("m7i.2xlarge", DEVICES[CPU], 8, 8, 12.5, 0.4032),
        Machine("m7i.4xlarge", DEVICES[CPU], 16, 16, 12.5, 0.8064),
        Machine("two-cores", DEVICES[CPU], 2, 2, 1, 0.0),  # that of docs/benchmarks.md
    )
}


def machine_named(name: str, key: str) -> Machine:
    """Return a machine of the table.

    Args:
        key: of the recipe, for the message.

    Raises:
        InputError: the table has none of that name.
    """
    if name not in MACHINES:
        raise InputError(f"{key}: no machine '{name}' in the table; give one of {', '.join(MACHINES)}")
    return MACHINES[name]


def price_of(machine: Machine, cluster: ClusterConfig) -> float:
    """Return the price of the training machine in US dollars per hour.

    Raises:
        InputError: none is known.
    """
    if cluster.price_per_machine_hour is not None:
        return cluster.price_per_machine_hour
    found = machine.spot_price_per_hour if cluster.market == "spot" else machine.price_per_hour
    if found is None:
        raise InputError(
            f"cluster.market: no {cluster.market} price of {machine.name} is in the table; "
            "set cluster.price_per_machine_hour"
        )
    return found
