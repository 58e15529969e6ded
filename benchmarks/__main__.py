"""Run one benchmark, or all of them one after another.

    PYTHONPATH=platform:. python -m benchmarks [NAME [OPTION ...]]

Each prints a table with our value, that of a peer or a limit, and their ratio, within five minutes on two cores. Those
that read runs of the quickstart need `make quickstart` first.
"""

import ast
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NAMES = (
    "wikitext_cleaning",
    "corpus_build",
    "encode_corpus",
    "ingest",
    "training_step",
    "step_trace",
    "distillation",
    "checkpointing",
    "scaling",
    "fill_mask_inference",
    "glue_search",
    "serving",
)


def summary(name: str) -> str:
    """Return the first line of the docstring of a benchmark."""
    source = Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def main(arguments: Sequence[str]) -> int:
    name, *options = arguments or ("",)
    if name and name not in NAMES:
        print(f"benchmarks: no benchmark {name!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    names, failed = ([name] if name else NAMES), []
    for number, each in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {each}: {summary(each)}", flush=True)
        start = time.monotonic()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{each}", *options]).returncode:
            failed.append(each)
        print(f"[{number}/{len(names)}] {each}: {time.monotonic() - start:.0f} s\n", flush=True)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
