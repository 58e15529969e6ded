"""Sizes of the stages for a given text, model and machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distilray.models.flops import ModelSize, step_flops

_CPU_MINUTES, _GPU_MINUTES = 5.0, 60.0
_TEACHER_SHARE = 0.6  # of the training time: a masked-LM head that is trained from scratch needs most of it
_MASKED = 0.15
_CPU_LENGTH, _GPU_LENGTH = 128, 512
_CPU_BATCH, _GPU_BATCH, _MAX_BATCH = 16, 256, 2000
_EPOCHS = 3.0  # over all copies of the text; the paper's number
_MAX_COPIES = 10
_HELDOUT_EXAMPLES, _MAX_HELDOUT = 1000, 0.1
_MIN_STEPS = 20
_GPU_MICRO_BATCH = 32
# Durations apart from training, measured on two cores (docs/benchmarks.md).
_TEXT_BYTES_PER_CORE_S, _ENCODED_TOKENS_PER_CORE_S = 1.2e6, 3e5
_START_S, _TRAINING_START_S, _EVALUATION_S, _SERVICE_S = 5.0, 20.0, 25.0, 15.0
_MB = 1e6


@dataclass(frozen=True)
class Workload:
    """Text and model of a run.

    Attributes:
        text_bytes, text_tokens: estimates.
        has_single_sentences: most documents have only one sentence.
        has_head: the model has a trained masked-LM head.
        max_length: number of positions of the model.
    """

    text_bytes: int
    text_tokens: int
    has_single_sentences: bool
    model: ModelSize
    student_layers: int
    has_head: bool
    max_length: int


@dataclass(frozen=True)
class Hardware:
    """Resources for training.

    Attributes:
        name: device in words.
        flops_per_s: of one worker.
    """

    name: str
    gpus: int
    cores: int
    flops_per_s: float

    @property
    def workers(self) -> int:
        return max(1, self.gpus)


@dataclass(frozen=True)
class Setting:
    """A chosen value of a recipe, and the reason for it."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Sizes:
    """Chosen settings by stage and key, and the estimated seconds of each stage."""

    settings: Mapping[str, Mapping[str, Setting]]
    seconds: Mapping[str, float]


def choose_sizes(work: Workload, hardware: Hardware, *, training_minutes: float | None = None) -> Sizes:
    """Choose lengths, batches, copies and steps so that training takes about `training_minutes`."""
    on_gpu = hardware.gpus > 0
    minutes = training_minutes or (_GPU_MINUTES if on_gpu else _CPU_MINUTES)
    length = min(_GPU_LENGTH if on_gpu else _CPU_LENGTH, work.max_length)
    batch = min(_MAX_BATCH, _GPU_BATCH * hardware.workers) if on_gpu else _CPU_BATCH
    shares = {"train_teacher": _TEACHER_SHARE, "distill": 1 - _TEACHER_SHARE}
    rates = {stage: _tokens_per_s(work, hardware, stage, length) for stage in shares}
    affordable = {stage: 60 * minutes * share * rates[stage] for stage, share in shares.items()}
    copies = min(_MAX_COPIES, max(1, math.ceil(max(affordable.values()) / (_EPOCHS * work.text_tokens))))
    tokens = copies * work.text_tokens  # in the shards
    steps = {
        stage: max(_MIN_STEPS, int(min(available, _EPOCHS * tokens) / (batch * length)))
        for stage, available in affordable.items()
    }
    settings = {
        "build_corpus": _corpus_settings(work, hardware),
        "encode_corpus": _shard_settings(work, hardware, length=length, copies=copies, on_gpu=on_gpu),
        **{stage: _training_settings(work, hardware, stage, steps[stage], batch, minutes) for stage in shares},
    }
    seconds = {
        "build_corpus": _START_S + work.text_bytes / (_TEXT_BYTES_PER_CORE_S * hardware.cores),
        "encode_corpus": _START_S + tokens / (_ENCODED_TOKENS_PER_CORE_S * hardware.cores),
        **{stage: _TRAINING_START_S + count * batch * length / rates[stage] for stage, count in steps.items()},
        "evaluate_fill_mask": _EVALUATION_S,
        "write_report": _START_S,
        "check_service": _SERVICE_S,
    }
    return Sizes(settings, seconds)


def _tokens_per_s(work: Workload, hardware: Hardware, stage: str, length: int) -> float:
    """Return the tokens per second of all workers, with the masked-LM head at the masked tokens only."""
    tokens = 1000
    sizes = {"tokens": tokens, "squared_lengths": tokens * length, "head_rows": round(tokens * _MASKED)}
    if stage == "train_teacher":
        flops = step_flops(work.model, teacher=None, **sizes)
    else:
        student = replace(work.model, layers=work.student_layers)
        flops = step_flops(student, teacher=work.model, teacher_head_rows=sizes["head_rows"], **sizes)
    return hardware.workers * hardware.flops_per_s * tokens / flops


def _chunk_size(work: Workload, hardware: Hardware) -> Setting:
    megabytes = work.text_bytes / _MB / (4 * hardware.cores)
    return Setting(min(8.0, max(0.2, round(megabytes, 1))), f"about four chunks for each of {hardware.cores} cores")


def _corpus_settings(work: Workload, hardware: Hardware) -> dict[str, Setting]:
    settings = {"chunk_mb": _chunk_size(work, hardware)}
    if work.has_single_sentences:
        filters = {"min_sentences": 1, "min_words": 5}
        settings["filters"] = Setting(filters, "most documents have a single sentence, which the defaults would drop")
    return settings


def _shard_settings(
    work: Workload, hardware: Hardware, *, length: int, copies: int, on_gpu: bool
) -> dict[str, Setting]:
    examples = copies * work.text_tokens / length
    heldout = round(min(_MAX_HELDOUT, max(0.01, _HELDOUT_EXAMPLES / examples)), 3)
    return {
        "max_seq_length": Setting(length, "full length" if on_gpu else "short enough for training on CPUs"),
        "short_seq_prob": Setting(0.0, "no short pairs, to make the most of each step"),
        "dupe_factor": Setting(copies, f"copies with other pairs and masks; the text has {work.text_tokens:,} tokens"),
        "heldout_fraction": Setting(heldout, f"about {heldout * examples:,.0f} examples, whole documents"),
        "chunk_mb": _chunk_size(work, hardware),
        "rows_per_shard": Setting(50_000 if on_gpu else 4000, "several shards"),
    }


def _training_settings(
    work: Workload, hardware: Hardware, stage: str, steps: int, batch: int, minutes: float
) -> dict[str, Setting]:
    on_gpu, trains_teacher = hardware.gpus > 0, stage == "train_teacher"
    share = _TEACHER_SHARE if trains_teacher else 1 - _TEACHER_SHARE
    settings = {
        "max_steps": Setting(steps, f"{share:.0%} of {minutes:g} min of training, at most {_EPOCHS:g} epochs"),
        "batch_size": Setting(batch, "larger with more GPUs" if on_gpu else "many small steps learn more in minutes"),
        "micro_batch_size": Setting(_GPU_MICRO_BATCH if on_gpu else batch, f"one forward pass of a {hardware.name}"),
    }
    if trains_teacher:
        rate = 1.0e-4 if work.has_head else 5.0e-4
        head = {} if work.has_head else {"head_learning_rate": 3.0e-3}
        reason = "adapts a trained model" if work.has_head else "the masked-LM head is trained from scratch"
        settings["optimizer"] = Setting({"learning_rate": rate, **head}, reason)
    else:
        settings["optimizer"] = Setting(
            {"learning_rate": 5.0e-4 if on_gpu else 7.0e-4}, "as in the card and quickstart"
        )
        settings["losses"] = Setting({"ce_positions": "masked"}, "several times as fast as all positions")
    if not on_gpu:
        settings["dropout"] = Setting(0.0, "no overfitting within minutes, and dropout is slow on CPUs")
    scaling = {"num_workers": hardware.workers, "use_gpu": on_gpu, "cpus_per_worker": 4 if on_gpu else hardware.cores}
    settings["scaling"] = Setting(
        scaling, f"{hardware.gpus} x {hardware.name}" if on_gpu else "one worker with all cores"
    )
    every = max(1, steps // 5)
    intervals = {
        "log_every_steps": max(1, steps // 50),
        "evaluate_every_steps": every,
        "checkpoint_every_steps": every,
        "heldout_examples": 200,
    }
    settings["intervals"] = Setting(intervals, "five evaluations and checkpoints")
    return settings
