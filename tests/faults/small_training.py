"""A distillation of seconds by two workers, and how it ended."""

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

STEPS, RHYTHM = 24, 4  # optimiser steps of a run, and between two of its checkpoints


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, and what it told on stderr."""

    run: Path
    code: int
    told: str


def values(folder: Path) -> dict[str, Any]:
    """Of its recipe; shards and teacher lie in `folder`."""
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
        "intervals": {"log_every_steps": 1, "checkpoint_every_steps": RHYTHM},
        "ray": {"num_cpus": 2},
    }


def fit(work: Path, run: Path, *overrides: str, deed: Callable[[], None] | None = None) -> Ended:
    """Runs the job in this process; in a thread beside it a deed is done to it."""
    arguments = ["--recipe", str(work / "recipe.yaml"), f"run_dir={run}", *overrides]
    told = io.StringIO()
    with ThreadPoolExecutor(1) as beside, contextlib.redirect_stderr(told):
        doing = beside.submit(deed) if deed else None
        code = distill.main(arguments)
    if doing is not None:
        doing.result()
    return Ended(run, code, told.getvalue())


def checkpoints(run: Path) -> list[int]:
    """Their steps, in order."""
    return sorted(int(file.parent.name.removeprefix("step-")) for file in run.glob("checkpoints/step-*/state.json"))


def losses(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(str(run / "metrics.jsonl"))]


def weights(run: Path) -> bytes:
    return (run / "model/model.safetensors").read_bytes()


def content_hash(run: Path) -> str:
    return str(json.loads((run / "manifest.json").read_text())["content_hash"])
