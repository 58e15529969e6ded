"""Sizes of the stages for a given text, model and machine."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distilray.models.flops import ModelSize, step_flops

_CPU_MINUTES, _GPU_MINUTES = 4.0, 60.0
_TEACHER_SHARE = 0.6  # of the training time: a masked-LM head that is trained from scratch needs most of it
_MASKED = 0.15
_SPECIAL_TOKENS = 3
_CPU_LENGTH, _GPU_LENGTH = 128, 512
_CPU_BATCH, _GPU_BATCH, _MAX_BATCH = 16, 256, 2000
_MAX_EPOCHS = 5  # over the text, each over a copy with other masks
_HELDOUT_EXAMPLES, _MAX_HELDOUT = 1000, 0.1
_HELDOUT_DOCUMENTS = 8  # at least, also if that is a larger share
_LENGTH_MULTIPLE = 32
_MIN_STEPS = 20
_GPU_MICRO_BATCH = 32
# Durations apart from training, measured on two cores (docs/benchmarks.md).
_TEXT_BYTES_PER_CORE_S, _ENCODED_TOKENS_PER_CORE_S = 1.2e6, 3e5
_START_S, _EVALUATION_S, _SERVICE_S = 5.0, 20.0, 20.0
_TRAINING_START_S = 55.0  # of the processes, and for the held-out scores and checkpoints
_MB = 1e6


@dataclass(frozen=True)
class Workload:
    """Text and model of a run.

    Attributes:
        text_bytes, text_tokens, documents: estimates.
        document_tokens: length of a long document.
        has_single_sentences: most documents have only one sentence.
        has_head: the model has a trained masked-LM head.
        max_length: number of positions of the model.
    """

    text_bytes: int
    text_tokens: int
    documents: int
    document_tokens: int
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


@dataclass(frozen=True)
class _Batches:
    """Shape of the training batches, in tokens and examples, and the reason for the length."""

    length: int
    size: int
    micro: int
    reason: str


def choose_sizes(
    work: Workload, hardware: Hardware, *, training_minutes: float | None = None, adapt_teacher: bool = True
) -> Sizes:
    """Choose lengths, batches, copies and steps so that training takes about `training_minutes`."""
    minutes = training_minutes or (_GPU_MINUTES if hardware.gpus else _CPU_MINUTES)
    batches = _batch_shape(work, hardware)
    shares = {"train_teacher": _TEACHER_SHARE, "distill": 1 - _TEACHER_SHARE} if adapt_teacher else {"distill": 1.0}
    rates = {stage: _tokens_per_s(work, hardware, stage, batches.length) for stage in shares}
    affordable = {stage: 60 * minutes * share * rates[stage] / batches.length for stage, share in shares.items()}
    examples = max(work.text_tokens / batches.length, work.documents)  # in one copy of the text
    copies = min(_MAX_EPOCHS, max(1, math.ceil(max(affordable.values()) / examples)))
    steps = {
        stage: max(_MIN_STEPS, int(min(available, _MAX_EPOCHS * examples) / batches.size))
        for stage, available in affordable.items()
    }
    settings = {
        "build_corpus": {"chunk_mb": _chunk_size(work, hardware)},
        "encode_corpus": _shard_settings(work, hardware, batches, copies=copies, examples=examples),
        **{
            stage: _training_settings(work, hardware, stage, steps[stage], batches, f"{share:.0%} of {minutes:g} min")
            for stage, share in shares.items()
        },
    }
    tokens = work.text_tokens * (1 if work.has_single_sentences else copies)  # in the shards
    seconds = {
        "build_corpus": _START_S + work.text_bytes / (_TEXT_BYTES_PER_CORE_S * hardware.cores),
        "encode_corpus": _START_S + tokens / (_ENCODED_TOKENS_PER_CORE_S * hardware.cores),
        **{
            stage: _TRAINING_START_S + count * batches.size * batches.length / rates[stage]
            for stage, count in steps.items()
        },
        "evaluate_fill_mask": _EVALUATION_S,
        "write_report": _START_S,
        "check_service": _SERVICE_S,
    }
    return Sizes(settings, seconds)


def _batch_shape(work: Workload, hardware: Hardware) -> _Batches:
    """Return the shape of the batches. Short documents make shorter and larger ones."""
    on_gpu = hardware.gpus > 0
    length, reason = (_GPU_LENGTH, "full length") if on_gpu else (_CPU_LENGTH, "short enough for training on CPUs")
    size = min(_MAX_BATCH, _GPU_BATCH * hardware.workers) if on_gpu else _CPU_BATCH
    micro = _GPU_MICRO_BATCH if on_gpu else size
    longest = -(-(work.document_tokens + _SPECIAL_TOKENS) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
    if longest < length:
        factor = length // longest
        size, micro = min(_MAX_BATCH, size * factor), min(_MAX_BATCH, micro * factor)
        length, reason = longest, f"95% of the documents have at most {work.document_tokens} tokens"
    return _Batches(min(length, work.max_length), size, micro, reason)


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


def _shard_settings(
    work: Workload, hardware: Hardware, batches: _Batches, *, copies: int, examples: float
) -> dict[str, Setting]:
    share = min(_MAX_HELDOUT, max(0.01, _HELDOUT_EXAMPLES / (copies * examples)))
    heldout = round(min(0.5, max(share, _HELDOUT_DOCUMENTS / work.documents)), 3)
    text = f"the text has {work.text_tokens:,} tokens"
    mode = (
        {
            "mode": Setting(
                "paper", "most documents have a single sentence, so there are no pairs of segments to learn from"
            )
        }
        if work.has_single_sentences
        else {"dupe_factor": Setting(copies, f"copies with other pairs and masks; {text}")}
    )
    return {
        **mode,
        "max_seq_length": Setting(batches.length, batches.reason),
        "short_seq_prob": Setting(0.0, "no short examples, to make the most of each step"),
        "heldout_fraction": Setting(heldout, f"about {heldout * work.documents:,.0f} of {work.documents:,} documents"),
        "chunk_mb": _chunk_size(work, hardware),
        "rows_per_shard": Setting(50_000 if hardware.gpus else 4000, "several shards"),
    }


def _training_settings(
    work: Workload, hardware: Hardware, stage: str, steps: int, batches: _Batches, time: str
) -> dict[str, Setting]:
    on_gpu, trains_teacher = hardware.gpus > 0, stage == "train_teacher"
    size_reason = "larger with more GPUs" if on_gpu else "many small steps learn more in minutes"
    settings = {
        "max_steps": Setting(steps, f"{time} of training, at most {_MAX_EPOCHS} epochs"),
        "batch_size": Setting(batches.size, size_reason),
        "micro_batch_size": Setting(batches.micro, f"one forward pass of a {hardware.name}"),
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
    intervals = {
        "log_every_steps": max(1, steps // 50),
        "evaluate_every_steps": math.ceil(steps / 2),
        "checkpoint_every_steps": math.ceil(steps / 5),
        "heldout_examples": 200,
    }
    settings["intervals"] = Setting(intervals, "two evaluations, five checkpoints")
    return settings
