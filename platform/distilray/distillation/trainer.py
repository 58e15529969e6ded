"""Trains a teacher, or distils it into a student, on the workers of a Ray cluster."""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import ray
from pyarrow import fs
from ray import train
from ray.train.torch import TorchTrainer

from distilray.config.distillation import DistillConfig, LossConfig, TrainingConfig, TrainTeacherConfig
from distilray.distillation.loop import LoopSettings, train_loop
from distilray.distillation.step import MASKED_LM_ONLY
from distilray.errors import InputError
from distilray.models.masked_lm import (
    MODEL_FOLDER,
    WEIGHTS_FILE,
    count_parameters,
    load_masked_lm,
    model_folder,
    start_head_bias,
)
from distilray.models.student import create_student
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, tokenizer_hash
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.metrics import MetricsFollower, Row, read_metrics
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import METRICS_FILE, RunFolder
from distilray.runtime.sample import resolve
from distilray.runtime.session import ray_session

CHECKPOINTS_FOLDER = "checkpoints"
_MODEL_FILES = ("config.json", WEIGHTS_FILE, "tokenizer.json", "tokenizer_config.json")


def teacher_inputs(config: TrainTeacherConfig) -> dict[str, str]:
    """What `train_teacher` reads."""
    return {"shards": config.shards_dir, "encoder": storage.join(resolve(config.encoder_dir), WEIGHTS_FILE)}


def distill_inputs(config: DistillConfig) -> dict[str, str]:
    """What `distill` reads."""
    return {"shards": config.shards_dir, "teacher": config.teacher_dir}


def create_teacher(config: TrainTeacherConfig) -> tuple[Any, None]:
    """The model that `train_teacher` trains: the warm start with its vocabulary head, fresh if it has none."""
    model = load_masked_lm(resolve(config.encoder_dir), fresh_head=True)
    start_head_bias(model, ShardSet(config.shards_dir, "train").token_counts())
    return model, None


def create_student_and_teacher(config: DistillConfig) -> tuple[Any, Any]:
    """The student that `distill` trains, and its frozen teacher."""
    teacher = load_masked_lm(model_folder(config.teacher_dir))
    layers, fold = config.student.layers, config.student.fold_segment_a
    return create_student(teacher, layers=layers, fold_segment_a=fold)[0], teacher


def plan_teacher(config: TrainTeacherConfig) -> dict[str, object]:
    """Validates the inputs of `train_teacher` and says what it would do."""
    model, _ = create_teacher(config)
    return {"parameters": f"{count_parameters(model):,}", **_plan(config, resolve(config.encoder_dir), 1)}


def plan_distillation(config: DistillConfig) -> dict[str, object]:
    """Validates the inputs of `distill` and says what it would do."""
    student, teacher = create_student_and_teacher(config)
    share = count_parameters(student) / count_parameters(teacher)
    return {
        "teacher": f"{count_parameters(teacher):,} parameters, {teacher.config.num_hidden_layers} layers",
        "student": f"{count_parameters(student):,} parameters ({share:.0%}), {student.config.n_layers} layers",
        **_plan(config, model_folder(config.teacher_dir), 2),
    }


def train_teacher(config: TrainTeacherConfig, folder: RunFolder) -> Outcome:
    """Trains the teacher's masked LM head and body on the shards; writes a model folder."""
    return _fit(config, folder, MASKED_LM_ONLY, create_teacher, resolve(config.encoder_dir), {})


def distill(config: DistillConfig, folder: RunFolder) -> Outcome:
    """Distils the teacher into a student with the three losses; writes a model folder."""
    teacher = load_masked_lm(model_folder(config.teacher_dir))
    student, source = create_student(
        teacher, layers=config.student.layers, fold_segment_a=config.student.fold_segment_a
    )
    storage.write_bytes(folder.path("initialisation.json"), json.dumps(source, indent=1).encode())
    counts = {"teacher_parameters": count_parameters(teacher), "parameters": count_parameters(student)}
    return _fit(config, folder, config.losses, create_student_and_teacher, model_folder(config.teacher_dir), counts)


def _plan(config: TrainingConfig, tokenizer_dir: str, models: int) -> dict[str, object]:
    shards = _open_shards(config, read_tokenizer(tokenizer_dir))
    steps = total_steps(config, len(shards))
    tokens = int(shards.tokens / len(shards) * config.batch_size * steps)
    return {
        "shards": f"{config.shards_dir}: {len(shards):,} examples, {shards.tokens:,} tokens",
        "steps": f"{steps:,} of {config.batch_size:,} examples ({steps * config.batch_size / len(shards):.2f} epochs)",
        "tokens": f"{tokens:,}",
        "workers": f"{config.scaling.num_workers} x {'1 GPU' if config.scaling.use_gpu else 'CPU'}",
        "models in memory": models,
        "checkpoints": f"every {config.rhythm.checkpoint_every_steps} steps, {config.rhythm.keep_checkpoints} kept",
    }


def _open_shards(config: TrainingConfig, tokenizer_json: str, *, verify: bool = False) -> ShardSet:
    return ShardSet(config.shards_dir, "train", tokenizer_hash=tokenizer_hash(tokenizer_json), verify=verify)


def total_steps(config: TrainingConfig, examples: int) -> int:
    """Optimiser steps of a run: `max_steps`, or as many as the epochs hold."""
    return config.max_steps or max(1, math.floor(config.epochs * examples / config.batch_size))


def _fit(
    config: TrainingConfig,
    folder: RunFolder,
    losses: LossConfig,
    create_models: Callable[[Any], tuple[Any, Any]],
    tokenizer_dir: str,
    counts: Mapping[str, Any],
) -> Outcome:
    tokenizer_json = read_tokenizer(tokenizer_dir)
    shards = _open_shards(config, tokenizer_json, verify=True)
    settings = LoopSettings(
        config=config,
        losses=losses,
        create_models=create_models,
        tokenizer_json=tokenizer_json,
        total_steps=total_steps(config, len(shards)),
        metrics_uri=folder.path(METRICS_FILE),
    )
    with ray_session(config.ray):
        _check_resources(config)
        progress = Progress(folder.job, total=settings.total_steps, unit="steps")
        with progress, MetricsFollower(settings.metrics_uri, lambda row: _show(progress, row)):
            checkpoint = _fit_beside(_trainer(settings, folder)).checkpoint
    _export_model(checkpoint, folder)
    last = read_metrics(settings.metrics_uri)[-1]
    terms = ", ".join(f"{name} {last[name]:.3f}" for name in ("loss", "ce", "mlm", "cos") if name in last)
    weights = folder.path(MODEL_FOLDER, WEIGHTS_FILE)
    return Outcome(
        f"{settings.total_steps:,} steps, {terms}, {last['tokens_per_s']:,.0f} tokens/s",
        {"steps": settings.total_steps, "tokenizer_hash": shards.tokenizer_hash, **counts},
        {f"{MODEL_FOLDER}/{WEIGHTS_FILE}": {"bytes": storage.file_size(weights), "sha256": storage.sha256(weights)}},
    )


def _fit_beside(trainer: TorchTrainer) -> train.Result:
    """`trainer.fit()` in a thread: in the main one Ray Train takes over Ctrl-C, and keeps it after the run."""
    result: Future[train.Result] = Future()

    def work() -> None:
        try:
            result.set_result(trainer.fit())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, name="fit", daemon=True).start()
    return result.result()


def _trainer(settings: LoopSettings, folder: RunFolder) -> TorchTrainer:
    config = settings.config
    resources = {"CPU": config.scaling.cpus_per_worker, **({"GPU": 1} if config.scaling.use_gpu else {})}
    # The run's name is its identity: the same folder again finds the newest checkpoint and goes on from there.
    found, path = storage.filesystem(folder.uri)
    return TorchTrainer(
        train_loop,
        train_loop_config={"settings": settings},
        scaling_config=train.ScalingConfig(
            num_workers=config.scaling.num_workers,
            use_gpu=config.scaling.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=train.RunConfig(
            name=CHECKPOINTS_FOLDER,
            storage_path=path,
            storage_filesystem=None if isinstance(found, fs.LocalFileSystem) else found,
            failure_config=train.FailureConfig(max_failures=config.scaling.max_failures),
            checkpoint_config=train.CheckpointConfig(num_to_keep=config.rhythm.keep_checkpoints),
        ),
    )


def _check_resources(config: TrainingConfig) -> None:
    """Refuses a run that the cluster could never start; Ray would wait for it without end."""
    have, workers = ray.cluster_resources(), config.scaling.num_workers
    needs = {"CPU": workers * config.scaling.cpus_per_worker, "GPU": workers if config.scaling.use_gpu else 0}
    for name, need in needs.items():
        if need > have.get(name, 0) and not os.environ.get("RAY_JOB_ID"):
            raise InputError(
                f"scaling: {workers} workers need {need:g} {name}, the local cluster has {have.get(name, 0):g}; "
                "lower scaling.num_workers or cpus_per_worker, or set scaling.use_gpu=false"
            )


def _show(progress: Progress, row: Row) -> None:
    progress.advance_to(row["step"], f"loss {row['loss']:.3f}, {row['tokens_per_s']:,.0f} tokens/s")


def _export_model(checkpoint: train.Checkpoint, folder: RunFolder) -> None:
    storage.make_folder(folder.path(MODEL_FOLDER))
    with checkpoint.as_directory() as directory:
        for name in _MODEL_FILES:
            storage.write_bytes(folder.path(MODEL_FOLDER, name), storage.read_bytes(storage.join(directory, name)))
