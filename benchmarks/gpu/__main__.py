"""Measure the training step and the service on a GPU, without Ray and without a network.

    bash benchmarks/gpu.sh [--minutes 8] [--json FILE] [--only REGEX]

Builds BERT base and its student with random weights, and random examples of up to 512 tokens. Measures the distillation
step by precision, compilation, positions of the loss and examples per micro-batch: speed, utilization and memory,
compared with a projection from a simulated GPU and with the estimate of the dry run. Compares one step with the CPU and
DDP with no DDP, trains for a minute, and compares the packed forward pass of the service with a padded one. Every
result is printed and written to FILE when it is complete, and a table of all of them at the end.
"""

import argparse
import contextlib
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import ROWS, cells
from benchmarks.gpu.processes import BAD_ENDS, Projections, measure
from benchmarks.gpu.report import line, table

NOT_MEASURED = "not measured"
DEFAULT_LENGTH = 512
PROJECTION_S = 20.0  # for the rest of the projections, after the time limit


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit; the most informative cells run first")
    parser.add_argument("--json", type=Path, default=Path("runs/gpu.json"), help="file for the results")
    parser.add_argument("--only", default="", metavar="REGEX", help="run only the cells whose names match")
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only tests this script")
    parser.add_argument("--size", choices=list(ROWS), default="base", help="tiny only tests this script")
    parser.add_argument("--length", type=int, help="tokens of the longest example (default: 512; tiny: 32)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    selected = [cell for cell in cells(args.size) if re.search(args.only, cell.name)]
    if args.list or not selected:
        print("\n".join(cell.name for cell in selected or cells(args.size)))
        return 0 if selected else 2
    settings = {"device": args.device, "size": args.size, "length": args.length}
    results: dict[str, dict[str, Any]] = {cell.name: {**cell.record(), "status": NOT_MEASURED} for cell in selected}
    report: dict[str, Any] = {"settings": settings, "device": {}}
    deadline, patience = time.time() + 60 * args.minutes, 1.0 if args.device == "cuda" else 20.0
    args.json.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        args.json.write_text(json.dumps({**report, "results": list(results.values())}, indent=1) + "\n")

    with contextlib.ExitStack() as processes:
        projections: Projections | None = None
        for event in measure(settings, selected, deadline, patience=patience):
            if "result" in event:
                results[event["result"]["cell"]] = event["result"]
                print(line(event["result"]), flush=True)
                save()
            elif not report["device"]:
                report["device"] = event["device"]
                print(", ".join(f"{name} {value}" for name, value in event["device"].items() if value), flush=True)
                if args.size == "base":
                    length = args.length or DEFAULT_LENGTH
                    projections = processes.enter_context(Projections(event["device"]["device"], selected, length))
        if projections is not None:
            for projection in projections.collect(max(PROJECTION_S, deadline - time.time())):
                results[projection["cell"]] |= projection
            save()
    print(f"\n{table(list(results.values()))}\n\nwritten to {args.json}", flush=True)
    return int(any(record["status"] in BAD_ENDS for record in results.values()))


if __name__ == "__main__":
    sys.exit(main())
