"""Dry runs of `train_teacher` and `distill`: models, steps, workers, estimates and output sizes."""

from typing import Any

from distilray.config.distillation import DistillConfig, TrainingConfig, TrainTeacherConfig
from distilray.distillation.cost import (
    checkpoint_gb,
    describe_cache,
    measured_tokens_per_s,
    time_and_cost,
    total_steps,
    worker_memory_gb,
)
from distilray.distillation.inputs import (
    build_student,
    check_cache_files,
    check_cache_matches,
    check_layer_map,
    check_shards,
    create_teacher,
    open_shards,
)
from distilray.models.flops import model_size
from distilray.models.masked_lm import count_parameters, load_masked_lm
from distilray.models.sources import localize
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.runtime.job import Quantity
from distilray.runtime.tracking import check_trackers


def plan_teacher(config: TrainTeacherConfig) -> dict[str, object]:
    """Validate the inputs of `train_teacher` and describe the run."""
    check_shards(config.shards_dir, config.encoder_dir, localize(config.encoder_dir))
    model, _ = create_teacher(config)
    return {"parameters": f"{count_parameters(model):,}", **_plan(config, localize(config.encoder_dir), model, None)}


def plan_distillation(config: DistillConfig) -> dict[str, object]:
    """Validate the inputs of `distill` and describe the run."""
    folder = localize(config.teacher_dir)
    check_shards(config.shards_dir, config.teacher_dir, folder)
    teacher = load_masked_lm(folder)
    student, _ = build_student(teacher, config)
    check_layer_map(config, student, teacher)
    check_cache_matches(config)
    check_cache_files(config)
    share = count_parameters(student) / count_parameters(teacher)
    return {
        "teacher": f"{count_parameters(teacher):,} parameters, {teacher.config.num_hidden_layers} layers",
        "student": f"{count_parameters(student):,} parameters ({share:.0%}), {student.config.num_hidden_layers} layers"
        + (", frozen position embeddings" if config.student.freeze_positions else ""),
        "losses": ", ".join(f"{alpha:g} {name}" for name, alpha in config.losses.alphas.items() if alpha)
        + f", temperature {config.losses.temperature:g}, {config.losses.reduction} reduction",
        "teacher cache": describe_cache(config, model_size(teacher).dim),
        **_plan(config, folder, student, teacher if config.teacher_cache_dir is None else None),
    }


def _plan(config: TrainingConfig, tokenizer_dir: str, model: Any, teacher: Any | None) -> dict[str, object]:
    check_trackers(config.trackers.extra, config.run_dir)
    shards = open_shards(config, read_tokenizer(tokenizer_dir))
    steps = total_steps(config, len(shards))
    tokens = int(shards.tokens / len(shards) * config.batch_size * steps)
    workers, intervals = config.scaling.num_workers, config.intervals
    written_gb, kept_gb = checkpoint_gb(count_parameters(model), steps, intervals)
    memory_gb = worker_memory_gb(config, max_seq_length=shards.max_seq_length, model=model, teacher=teacher)
    return {
        "shards": f"{config.shards_dir}: {len(shards):,} examples, {shards.tokens:,} tokens",
        "steps": Quantity(
            f"{steps:,} of {config.batch_size:,} examples ({steps * config.batch_size / len(shards):.2f} epochs)",
            steps,
            "steps",
        ),
        "tokens": f"{tokens:,}",
        "workers": f"{workers} x {'1 GPU' if config.scaling.use_gpu else 'CPU'}"
        + (f", down to {config.scaling.min_workers}" if config.scaling.min_workers else ""),
        "memory": f"about {memory_gb:.1f} GB per worker",
        "time": time_and_cost(config.estimate, tokens, workers=workers, measured_rate=measured_tokens_per_s),
        "checkpoints": f"every {intervals.checkpoint_every_steps:,} steps, "
        f"keeping {intervals.keep_checkpoints} and the best",
        "bytes written": Quantity(
            f"about {written_gb:,.1f} GB in total, {kept_gb:,.1f} GB of which remain", kept_gb * 1e9, "bytes"
        ),
    }
