"""Training of a teacher and distillation into a student, on the workers of a Ray cluster."""

import functools
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distilray.config.distillation import (
    DistillConfig,
    LossConfig,
    TrainingConfig,
    TrainTeacherConfig,
)
from distilray.distillation.cost import total_steps
from distilray.distillation.inputs import (
    build_student,
    check_cache_files,
    create_student_and_teacher,
    create_teacher,
    open_shards,
)
from distilray.distillation.losses import LOSSES
from distilray.distillation.objective import MASKED_LM_ONLY
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import DIVERGED, DIVERGED_FOLDER, train_loop
from distilray.errors import DataQualityError, InputError
from distilray.models.masked_lm import count_parameters, load_masked_lm
from distilray.models.sources import MODEL_FOLDER, SAVED_FILES, localize
from distilray.models.student import summarize_origins
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime import storage
from distilray.runtime.environment import inside_cluster
from distilray.runtime.job import Outcome
from distilray.runtime.metrics import MetricsFollower, Row, read_metrics
from distilray.runtime.progress import NoticeFollower, Progress
from distilray.runtime.resources import ensure_capacity
from distilray.runtime.run_folder import METRICS_FILE, RunFolder
from distilray.runtime.session import ray_session
from distilray.training.checkpoint import CHECKPOINTS_FOLDER, CheckpointStore, newest_step
from distilray.training.loop import Stop
from distilray.training.reporter import HELDOUT_FILE
from distilray.training.workers import run_on_workers, workers_needed

INITIALIZATION_FILE = "initialization.json"


class DivergedError(DataQualityError):
    """Raised when the gradients of several steps in a row were not finite, so that training cannot continue."""


def train_teacher(config: TrainTeacherConfig, folder: RunFolder) -> Outcome:
    """Train the teacher's encoder and masked-LM head on the shards, and write a model folder."""
    tokenizer_dir = localize(config.encoder_dir)
    return _fit(config, folder, losses=MASKED_LM_ONLY, create_models=create_teacher, tokenizer_dir=tokenizer_dir)


def distill(config: DistillConfig, folder: RunFolder) -> Outcome:
    """Distill the teacher, or its cached outputs, into a student, and write a model folder."""
    check_cache_files(config, verify=True)
    teacher = load_masked_lm(localize(config.teacher_dir))
    student, origins = build_student(teacher, config)
    storage.write_bytes(folder.path(INITIALIZATION_FILE), json.dumps(origins, indent=1).encode())
    counts = {
        "teacher_parameters": count_parameters(teacher),
        "parameters": count_parameters(student),
        "teacher_layers": teacher.config.num_hidden_layers,
        "layers": student.config.num_hidden_layers,
    }
    del teacher, student
    return _fit(
        config,
        folder,
        losses=config.losses,
        create_models=create_student_and_teacher,
        tokenizer_dir=localize(config.teacher_dir),
        teacher_cache_dir=config.teacher_cache_dir,
        counts=counts,
        notices=summarize_origins(origins),
    )


def _fit(
    config: TrainingConfig,
    folder: RunFolder,
    *,
    losses: LossConfig,
    create_models: Callable[[Any], tuple[Any, Any]],
    tokenizer_dir: str,
    teacher_cache_dir: str | None = None,
    counts: Mapping[str, Any] = {},
    notices: Sequence[str] = (),
) -> Outcome:
    tokenizer_json = read_tokenizer(tokenizer_dir)
    shards = open_shards(config, tokenizer_json, verify=True)
    settings = LoopSettings(
        config=config,
        losses=losses,
        create_models=create_models,
        tokenizer_json=tokenizer_json,
        total_steps=total_steps(config, len(shards)),
        run_uri=folder.uri,
        teacher_cache_dir=teacher_cache_dir,
        on_cluster=inside_cluster(),
    )
    with ray_session(config.ray):
        ensure_capacity(workers_needed(config.scaling), job=folder.job, run_dir=folder.uri)
        for notice in notices:
            _print_notice(folder.job, notice)
        progress = Progress(folder.job, total=settings.total_steps, unit="steps")
        progress.start_at(newest_step(folder.path(CHECKPOINTS_FOLDER)))
        follower = MetricsFollower(folder.path(METRICS_FILE), lambda row: _update_progress(progress, row))
        with progress, follower, NoticeFollower(folder.uri, lambda text: _print_notice(folder.job, text)):
            stop = run_on_workers(
                functools.partial(train_loop, settings),
                config.scaling,
                folder.path(CHECKPOINTS_FOLDER),
                max_failures=config.fault_tolerance.max_failures,
                preemption_grace_s=config.fault_tolerance.preemption_grace_s,
            )
    _check_complete(stop, folder)
    _copy_model(settings, folder)
    return Outcome(
        _summary(settings, folder),
        {"steps": settings.total_steps, "tokenizer_hash": shards.tokenizer_hash, **counts},
        folder.describe_outputs(f"{MODEL_FOLDER}/{name}" for name in SAVED_FILES),
    )


def _check_complete(stop: Stop | None, folder: RunFolder) -> None:
    """Check that training reached its last step.

    Raises:
        InputError: a checkpoint could not be written.
        DivergedError: training diverged; the error lists the files with the ids of the examples.
    """
    if stop is None:
        return
    if stop.reason == DIVERGED:
        raise DivergedError(stop.message, storage.list_files(folder.path(DIVERGED_FOLDER), ".json"))
    raise InputError(stop.message)


def _summary(settings: LoopSettings, folder: RunFolder) -> str:
    rows = read_metrics(folder.path(METRICS_FILE))
    last, rate = rows[-1], statistics.median(row["tokens_per_s"] for row in rows)
    terms = ", ".join(f"{name} {last[name]:.3f}" for name in ("loss", *LOSSES) if name in last)
    parts = [f"{settings.total_steps:,} steps, {terms}"]
    scores = read_metrics(folder.path(HELDOUT_FILE))
    if scores:
        first, latest = scores[0], scores[-1]
        parts.append(f"held out: loss {latest['loss']:.3f}, hit@1 {latest['hit@1']:.3f}")
        if "agreement" in latest:
            agreement = f"{latest['agreement']:.1%} of masked tokens (initially {first['agreement']:.1%})"
            parts.append(f"agrees with the teacher at {agreement}")
    return ", ".join([*parts, f"{rate:,.0f} tokens/s"])


def _update_progress(progress: Progress, row: Row) -> None:
    loss = f"loss {row['loss']:.3f}, " if "loss" in row else ""
    progress.advance_to(row["step"], f"{loss}{row['tokens_per_s']:,.0f} tokens/s")


def _print_notice(job: str, text: str) -> None:
    print(f"{job}: {text}", file=sys.stderr, flush=True)


def _copy_model(settings: LoopSettings, folder: RunFolder) -> None:
    """Copy the model from the checkpoint of the last step into the run folder."""
    store = CheckpointStore(
        folder.path(CHECKPOINTS_FOLDER), keep=1, config_hash=settings.config.identity_hash(), notice=print
    )
    storage.make_folder(folder.path(MODEL_FOLDER))
    for name in SAVED_FILES:
        data = storage.read_bytes(store.path(settings.total_steps, name))
        storage.write_bytes(folder.path(MODEL_FOLDER, name), data)
