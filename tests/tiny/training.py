"""Distillation run of a few seconds with two workers."""

import contextlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilray.runtime.metrics import read_metrics
from jobs import distill

STEPS, CHECKPOINT_EVERY = 40, 4  # optimizer steps


@dataclass(frozen=True)
class RunResult:
    """Run folder, exit code and stderr of a run."""

    run: Path
    code: int
    stderr: str


def values(folder: Path) -> dict[str, Any]:
    """Return the values of the recipe; shards and teacher are in `folder`."""
    return {
        "run_dir": str(folder / "undisturbed"),
        "shards_dir": str(folder / "shards"),
        "teacher_dir": str(folder / "teacher"),
        "max_steps": STEPS,
        "batch_size": 24,
        "micro_batch_size": 3,
        "precision": "fp32",
        "dropout": 0.1,
        "optimizer": {"learning_rate": 1e-3},
        "scaling": {"num_workers": 2, "use_gpu": False, "cpus_per_worker": 1},
        "intervals": {"log_every_steps": 1, "checkpoint_every_steps": CHECKPOINT_EVERY},
        "ray": {"num_cpus": 2},
    }


def train(work: Path, run: Path, *overrides: str, fault: Callable[[], None] | None = None) -> RunResult:
    """Run the job in this process, while a thread injects a fault."""
    arguments = ["--recipe", str(work / "recipe.yaml"), f"run_dir={run}", *overrides]
    stderr = io.StringIO()
    with ThreadPoolExecutor(1) as thread, contextlib.redirect_stderr(stderr):
        injection = thread.submit(fault) if fault else None
        code = distill.main(arguments)
    if injection is not None:
        injection.result()
    return RunResult(run, code, stderr.getvalue())


def checkpoints(run: Path) -> list[int]:
    """Return the steps of the checkpoints, in order."""
    return sorted(int(file.parent.name.removeprefix("step-")) for file in run.glob("checkpoints/step-*/state.json"))


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(str(run / "metrics.jsonl"))]


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def content_hash(run: Path) -> str:
    return str(json.loads((run / "manifest.json").read_text())["content_hash"])
