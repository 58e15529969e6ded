"""Measurements of the GPU benchmark, in the order in which they run."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Precision = Literal["bf16", "fp16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
Compile = Literal["auto", True, False]
# Names of the values of the recipe key `compile`.
MODES: Mapping[Compile, str] = {False: "eager", "auto": "fused loss", True: "compiled"}
POSITIONS = ("all", "masked")
# Examples of a micro-batch.
ROWS: Mapping[str, tuple[int, ...]] = {"base": (32, 64, 128, 256), "tiny": (4, 8)}
# Seconds after which a measurement is stopped, without and with compilation.
LIMITS: Mapping[str, tuple[float, float]] = {
    "step": (60, 150),
    "parity": (60, 150),
    "ddp": (60, 150),
    "training": (120, 200),
    "service": (60, 60),
}


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        kind: key of `LIMITS`.
        compile: value of the recipe key; `auto` compiles the vocabulary loss on a GPU.
        positions: positions of the distillation loss.
        rows: examples of a micro-batch.
    """

    kind: str
    precision: Precision
    compile: Compile = False
    positions: str = "all"
    rows: int = 32

    @property
    def name(self) -> str:
        mode = MODES[self.compile]
        names = {
            "step": f"{self.precision} {mode} {self.positions} {self.rows}",
            "service": f"service {self.precision}",
        }
        return names.get(self.kind, f"{self.kind} {self.precision} {mode}")

    @property
    def limit_s(self) -> float:
        return LIMITS[self.kind][self.compile is not False]

    def record(self) -> dict[str, Any]:
        return {"cell": self.name, **asdict(self)}


def cells(size: str) -> list[Cell]:
    """Return the cells of a size, the most informative ones first; those with the same models are neighbors."""
    rows = ROWS[size]
    checks = [
        Cell("parity", "fp32"),
        Cell("parity", "bf16"),
        Cell("ddp", "bf16", rows=rows[0]),
        Cell("service", "fp32"),
        Cell("service", "bf16"),
    ]
    if size == "tiny":
        # Compilation takes most of the time on a CPU, so that only one cell is compiled.
        others = [Cell("training", "fp32", rows=rows[-1]), Cell("step", "fp32", True, "masked", rows[-1])]
        return [*_grid(PRECISIONS, (False,), rows), *checks, *others]
    first = [
        *_grid(("bf16",), (False, "auto"), (32, 128)),
        *_grid(("bf16",), (True,), rows),
        Cell("training", "bf16", True, rows=128),
        Cell("ddp", "bf16", True),
        *checks,
        *_grid(("fp16", "fp32"), (False,), (32, 128)),
        Cell("parity", "fp32", True),
    ]
    return list(dict.fromkeys([*first, *_grid(PRECISIONS, tuple(MODES), rows)]))


def _grid(precisions: tuple[Precision, ...], modes: tuple[Compile, ...], rows: tuple[int, ...]) -> list[Cell]:
    combinations = itertools.product(precisions, modes, POSITIONS, rows)
    return [Cell("step", precision, mode, positions, number) for precision, mode, positions, number in combinations]
