"""Models, shards and training runs of the tests of distillation."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import train_loop
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import distant_student
from tests.tiny.shards import open_shards

VALUES: dict[str, Any] = {
    "batch_size": 16,
    "micro_batch_size": 5,
    "precision": "fp32",
    "dropout": 0.0,
    "optimizer": {"learning_rate": 5e-3},
    "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
}


@pytest.fixture(scope="package")
def shards(shards_dir: str) -> ShardSet:
    return open_shards(shards_dir)


@pytest.fixture(scope="package")
def teacher(teacher_dir: str) -> Any:
    return load_masked_lm(teacher_dir).requires_grad_(False)


@pytest.fixture
def student(teacher: Any) -> Any:
    return distant_student(teacher)  # in eval mode: no dropout


@dataclass(frozen=True)
class Run:
    """Result of a training run: rows of metrics and of held-out scores, and models before and after."""

    folder: Path
    rows: list[dict[str, Any]]
    heldout: list[dict[str, Any]]
    model: nn.Module
    config: DistillConfig

    def initial_model(self) -> nn.Module:
        return create_student_and_teacher(self.config)[0]


@pytest.fixture
def fit(teacher_dir: str, shards_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Train in this process for some steps; recipe values can be changed."""

    def run(steps: int, *, folder: Path | None = None, **changes: Any) -> Run:
        folder = folder or tmp_path_factory.mktemp("run")
        values = {**VALUES, "run_dir": str(folder), "teacher_dir": teacher_dir, "shards_dir": shards_dir, **changes}
        # Preemption notices are only available to workers of Ray Train.
        intervals = {"log_every_steps": 1, "checkpoint_every_steps": 1000, "poll_preemption_every_steps": steps + 1}
        values["intervals"] = {**intervals, **changes.get("intervals", {})}
        config = DistillConfig.model_validate({**values, "max_steps": steps})
        models: list[nn.Module] = []
        train_loop(
            LoopSettings(
                config=config,
                losses=config.losses,
                create_models=functools.partial(create_and_record, models=models),
                tokenizer_json=read_tokenizer(teacher_dir),
                total_steps=steps,
                run_uri=str(folder),
                teacher_cache_dir=config.teacher_cache_dir,
            )
        )
        return Run(folder, read_rows(folder / "metrics.jsonl"), read_rows(folder / "heldout.jsonl"), models[0], config)

    return run


def create_and_record(config: DistillConfig, *, models: list[nn.Module]) -> tuple[Any, Any]:
    """Create the models as in production, and add the student to a list."""
    student, teacher = create_student_and_teacher(config)
    models.append(student)
    return student, teacher


def read_rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
