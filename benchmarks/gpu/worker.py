"""Process that runs cells on the device and prints their results, so that a hang or a crash costs only one cell.

Reads one JSON object from stdin: `device`, `size`, `length`, `deadline` (seconds since the epoch) and `cells`. Prints
JSON objects, one per line: first the `device`, then `start` with the name of a cell, and its `result`; last `end`.
"""

import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.gpu import checks, training
from benchmarks.gpu.cells import Cell
from benchmarks.gpu.workload import SIZES, Workload

OUT_OF_MEMORY, FAILED, OK = "out of memory", "failed", "ok"
CELLS: Mapping[str, Callable[[Workload, Cell], dict[str, Any]]] = {**training.CELLS, **checks.CELLS}


def run(workload: Workload, cell: Cell) -> dict[str, Any]:
    """Run a cell, and return its record with a `status`, its figures, and a `message` if there is something to say."""
    started = time.perf_counter()
    workload.free()
    try:
        figures = CELLS[cell.kind](workload, cell)
        status = FAILED if figures.pop("is_failed", False) else OK
    except torch.OutOfMemoryError as error:
        status, figures = OUT_OF_MEMORY, {"message": _first_line(error)}
    except Exception as error:
        if _is_context_lost(error):
            raise
        traceback.print_exc()
        status, figures = FAILED, {"message": f"{type(error).__name__}: {_first_line(error)}"}
    if status == FAILED:
        workload.release()
    return {**cell.record(), "status": status, "seconds": time.perf_counter() - started, **figures}


def describe_device(device: torch.device) -> dict[str, Any]:
    name, memory_gb, capability = "CPU", None, None
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory_gb = properties.name, properties.total_memory / 1e9
        capability = f"{properties.major}.{properties.minor}"
    return {
        "device": name,
        "memory_gb": memory_gb,
        "compute_capability": capability,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "cpu_threads": torch.get_num_threads(),
    }


def main() -> None:
    settings = json.load(sys.stdin)
    device = torch.device("cuda", 0) if settings["device"] == "cuda" else torch.device("cpu")
    if settings["size"] == "tiny":
        torch.set_num_threads(1)  # tiny operations are slower with several threads
    _print(device=describe_device(device))
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(SIZES[settings["size"]], device, Path(folder), settings["length"])
        for values in settings["cells"]:
            if time.time() > settings["deadline"]:
                break
            cell = Cell(**values)
            _print(start=cell.name)
            _print(result=run(workload, cell))
    _print(end=True)


def _is_context_lost(error: Exception) -> bool:
    """Return whether a CUDA error makes all further calls fail. The process must be started again."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _print(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
