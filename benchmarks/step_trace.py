"""Projected speed of the distillation step on a GPU, from a trace of its operations on a simulated one.

    make bench step_trace
    PYTHONPATH=platform:. python -m benchmarks.step_trace [--gpu H200 --gpu A100] [--rows 32] [--length 512]
        [--positions all] [--precision bf16] [--json FILE]

Traces a micro-step of full size and the update (BERT base as teacher, DistilBERT as student, 5/2/1 loss weights, no
padding) with fake tensors, so that neither a GPU nor time is needed. Prints FLOPs, the bytes that each part reads and
writes, host synchronizations and the peak memory. From these, roofline arithmetic projects the model FLOPs utilization
(MFU) of a micro-step without compilation, with the compiled vocabulary loss, and with compiled layers as well. A
compiled function is counted as one kernel between two matrix products. The same arithmetic for a published run on A100
shows how far it is from reality. Nothing here was measured on a GPU.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import Result, align, table, write_results
from tests.tiny.fake_cuda import load_fake_cuda

GPUS = ("H200", "A100")
GB = 1e9
# BERT base of Hugging Face in MosaicBERT (Portes et al. 2023): see machines.yaml. Its A100 have 80 GB.
PUBLISHED_MFU, PUBLISHED_ROWS, PUBLISHED_LENGTH, A100_80GB = 0.24, 128, 128, 2039e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--gpu", action="append", help="device in operations/plan/machines.yaml (default: H200 and A100)"
    )
    parser.add_argument("--rows", type=int, default=32, help="examples of a micro-step")
    parser.add_argument("--length", type=int, default=512, help="tokens of an example")
    parser.add_argument("--positions", choices=("all", "masked"), default="all", help="of the distillation loss")
    parser.add_argument("--precision", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    load_fake_cuda()
    from benchmarks import traced_step

    config = traced_step.distill_config(precision=arguments.precision, losses={"ce_positions": arguments.positions})
    traces = {
        name: traced_step.trace_step(config, rows=arguments.rows, length=arguments.length, compiled=compiled)
        for name, compiled in traced_step.VARIANTS.items()
    }
    print(f"{arguments.rows} x {arguments.length} tokens, {arguments.positions} positions, {arguments.precision}")
    print("Projection; not run on a GPU.\n")
    print(align(details(traces)))
    results = [*bars(traces["compiled"]), *projections(traces, arguments.gpu or GPUS, arguments.precision)]
    if arguments.precision == "bf16":
        name, projected = "MFU of MosaicBERT's BERT base, A100", 100 * published_projection()
        results.append(Result(name, 100 * PUBLISHED_MFU, "%", "", "projected", projected))
    print(f"\n{table(results)}")
    if arguments.json:
        write_results(arguments.json, results, {"traces": {name: trace.summary() for name, trace in traces.items()}})


def details(traces: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a table with a column for each trace."""
    from benchmarks.operation_trace import ATTENTION, ELEMENT_WISE, MATRIX_PRODUCTS
    from benchmarks.traced_step import COMPONENTS

    def row(label: str, values: Any) -> tuple[str, ...]:
        return (label, *(f"{value:,.2f}" if isinstance(value, float) else str(value) for value in values))

    every = list(traces.values())
    rows = [("", *traces), row("TFLOPs", (trace.flops() / 1e12 for trace in every))]
    parts = [(kind, None, kind) for kind in (MATRIX_PRODUCTS, ATTENTION)]
    parts += [(f"{ELEMENT_WISE}, {part}", part, ELEMENT_WISE) for part in COMPONENTS]
    rows += [row(f"{label}, GB", (trace.bytes(part, kind) / GB for trace in every)) for label, part, kind in parts]
    rows.append(row("synchronizations", (trace.synchronizations.total() for trace in every)))
    rows.append(row("tensors computed on the host", (trace.host_operations.total() for trace in every)))
    rows.append(row("peak memory, GB", (trace.peak_bytes / GB for trace in every)))
    return rows


def bars(trace: Any) -> list[Result]:
    from benchmarks.operation_trace import ELEMENT_WISE
    from benchmarks.traced_step import VOCABULARY_LOSS

    loss = trace.bytes(VOCABULARY_LOSS, ELEMENT_WISE) / GB
    return [
        Result("vocabulary loss, element-wise", loss, "GB", "<= 8"),
        Result("synchronizations per micro-step", trace.synchronizations.total(), "", "<= 2"),
    ]


def projections(traces: Mapping[str, Any], gpus: Any, precision: str) -> list[Result]:
    from distilray.operations.plan.machines import DEVICES
    from distilray.operations.plan.roofline import Roofline

    results = []
    for gpu in gpus:
        device = DEVICES[gpu]
        roofline = Roofline(device.peak(precision), device.memory_gb_per_s * GB)
        for name, trace in traces.items():
            mfu, rate = trace.mfu(roofline), trace.tokens / trace.seconds(roofline)
            goal = ">= 45" if name == "compiled" else ""
            results.append(Result(f"projected MFU, {gpu}, {name}", 100 * mfu, f"% ({rate:,.0f} tokens/s)", goal))
    return results


def published_projection() -> float:
    """Return the projected MFU of the published run."""
    from benchmarks.traced_step import trace_masked_lm
    from distilray.operations.plan.machines import DEVICES
    from distilray.operations.plan.roofline import Roofline

    trace = trace_masked_lm(PUBLISHED_ROWS, PUBLISHED_LENGTH)
    return trace.mfu(Roofline(DEVICES["A100"].peak("bf16"), A100_80GB))


if __name__ == "__main__":
    main()
