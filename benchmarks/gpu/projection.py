"""Process that projects steps of full size from traces on a simulated GPU. It runs next to the measurements, on a CPU.

Reads one JSON object from stdin: `device` (name of the GPU), `length` and `cells`. Prints a JSON object for each cell:
its name as `cell`, `projected_mfu` (None for an unknown GPU) and `traced_gb`.
"""

import json
import os
import re
import sys
from typing import Any

from benchmarks.gpu.cells import MODES, Cell
from tests.tiny.fake_cuda import load_fake_cuda


def project(cell: Cell, *, device_name: str, length: int) -> dict[str, Any]:
    """Trace an optimizer step with one micro-batch of full length."""
    from benchmarks.traced_step import VARIANTS, distill_config, trace_step
    from distilray.operations.plan.machines import DEVICES
    from distilray.operations.plan.roofline import Roofline

    config = distill_config(precision=cell.precision, losses={"ce_positions": cell.positions})
    trace = trace_step(config, rows=cell.rows, length=length, compiled=VARIANTS[MODES[cell.compile]])
    known = [name for name in DEVICES if re.search(rf"\b{name}\b", device_name)]
    device = DEVICES[max(known, key=len)] if known else None
    peak = device.peak(cell.precision) if device else None
    mfu = trace.mfu(Roofline(peak, device.memory_gb_per_s * 1e9)) if device and peak else None
    return {"cell": cell.name, "projected_mfu": mfu, "traced_gb": trace.peak_bytes / 1e9}


def main() -> None:
    os.nice(10)  # the measurements must not wait for it
    settings = json.load(sys.stdin)
    load_fake_cuda()
    for values in settings["cells"]:
        print(
            json.dumps(project(Cell(**values), device_name=settings["device"], length=settings["length"])), flush=True
        )


if __name__ == "__main__":
    main()
