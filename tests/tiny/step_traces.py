"""Traces of a distillation step on a simulated GPU, in a process of their own. Reads their settings from stdin.

torch keeps the simulated device until the process ends.
"""

import json
import sys
from typing import Any

from tests.tiny.fake_cuda import load_fake_cuda


def main() -> None:
    """Print the results as JSON, by the names of the cases."""
    cases: dict[str, dict[str, Any]] = json.load(sys.stdin)
    load_fake_cuda()
    functions = {"faults": trace_faults, "published run": trace_published_run}
    print(json.dumps({name: functions.get(name, trace)(**case) for name, case in cases.items()}))


def trace(config: dict[str, Any], rows: int, variant: str) -> dict[str, Any]:
    from benchmarks.traced_step import VARIANTS, distill_config, trace_step
    from distilray.operations.plan.machines import DEVICES
    from distilray.operations.plan.roofline import Roofline

    step = trace_step(distill_config(**config), rows=rows, length=512, compiled=VARIANTS[variant])
    peaks = {name: (device.peak(config["precision"]), device) for name, device in DEVICES.items()}
    mfu = {
        name: step.mfu(Roofline(peak, device.memory_gb_per_s * 1e9)) for name, (peak, device) in peaks.items() if peak
    }
    return {**step.summary(), "mfu": mfu}


def trace_published_run() -> dict[str, float]:
    """Return the measured share of the peak of a published run, and its projection."""
    from benchmarks.step_trace import PUBLISHED_MFU, published_projection

    return {"measured": PUBLISHED_MFU, "projected": published_projection()}


def trace_faults() -> dict[str, list[str]]:
    """Return the reports of the trace on operations that a step should not contain."""
    import torch

    from benchmarks.operation_trace import OperationTrace
    from tests.tiny.fake_cuda import fake_cuda

    with fake_cuda():
        values = torch.ones(4, device="cuda")
        with OperationTrace("cuda") as trace:
            float(values.sum())
            values.nonzero()
            values[values > 0]
            values.cpu()
            values + torch.ones(4).to("cuda")
    return {
        "synchronizations": [each.what for each in trace.synchronizations],
        "host_operations": [each.what for each in trace.host_operations],
    }


if __name__ == "__main__":
    main()
