"""Estimate the workload of a pipeline (tokens, steps, FLOPs, bytes) from its recipes and the amount of text."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distilray.config.base import Precision
from distilray.config.distillation import DistillConfig
from distilray.config.plan import ModelShapeConfig, PlanConfig, TextConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.distillation.compilation import is_compiled, is_loss_compiled
from distilray.distillation.cost import checkpoint_gb, total_steps
from distilray.distillation.memory import worker_memory_gb
from distilray.distillation.preparation import flops_per_step
from distilray.errors import InputError
from distilray.models.architectures import BERT, DISTILBERT, Architecture
from distilray.models.flops import ModelSize, model_size
from distilray.models.masked_lm import count_parameters
from distilray.models.precision import fastest_precision
from distilray.operations.plan.machines import Device
from distilray.operations.plan.roofline import PROJECTION, Roofline, StepWork, projected_mfu
from distilray.schemas import EXAMPLES
from distilray.training.meter import StepSize

# With segment pairs, by max_seq_length: tokens in the shards per token of text and copy (segment B of a random pair is
# used twice), and mean length relative to max_seq_length. Measured on the sample (docs/benchmarks.md).
_LENGTHS, _PAIR_GROWTH, _PAIR_LENGTH = (128, 512), (1.21, 1.32), (0.995, 0.90)
_SINGLE_LENGTH = 0.95  # the same without pairs; assumed, since the last example of a document is shorter
_GB = 1e9
_OFFSET_BYTES = 4  # Arrow's list offset per row


@dataclass(frozen=True)
class ExampleEstimate:
    """Estimated examples in the shards, including all copies.

    Attributes:
        attended_length: mean number of tokens to which a token attends, i.e. the sum of the squared lengths divided by
            the sum of the lengths.
        masked_share: fraction of the tokens that are masked.
    """

    count: int
    heldout: int
    mean_length: float
    max_length: int
    attended_length: float
    masked_share: float
    text_tokens: int
    shard_bytes: int

    @property
    def tokens(self) -> int:
        return round(self.count * self.mean_length)


@dataclass(frozen=True)
class TrainingEstimate:
    """Estimated distillation.

    Attributes:
        tokens_per_step, flops_per_step: per optimizer step, summed over all workers.
        backward_share: fraction of the FLOPs in the backward pass.
        heldout_flops: FLOPs of one pass over the held-out examples.
        teacher: None if the distillation reads a cache.
        head_rows: tokens of a step at which both models compute logits.
        worker_gb: memory of one worker.
        written_gb: checkpoints and models written during the run; kept_gb: those that remain.
    """

    config: DistillConfig
    steps: int
    tokens_per_step: float
    flops_per_step: float
    backward_share: float
    heldout_flops: float
    parameters: int
    student: ModelSize
    teacher: ModelSize | None
    head_rows: float
    worker_gb: float
    written_gb: float
    kept_gb: float

    @property
    def tokens(self) -> float:
        return self.steps * self.tokens_per_step


def text_tokens(text: TextConfig) -> int:
    return round((text.wikipedia_words + text.book_words) * text.tokens_per_word)


def estimate_examples(text: TextConfig, config: EncodeCorpusConfig) -> ExampleEstimate:
    """Estimate the examples that `encode_corpus` would write."""
    tokens, longest = text_tokens(text), config.max_seq_length
    has_pairs = config.mode == "card"
    growth = float(np.interp(longest, _LENGTHS, _PAIR_GROWTH)) if has_pairs else 1.0
    relative_mean = float(np.interp(longest, _LENGTHS, _PAIR_LENGTH)) if has_pairs else _SINGLE_LENGTH
    mean = relative_mean * longest
    shard_tokens = tokens * growth * config.dupe_factor
    count = max(1, round(shard_tokens / mean))
    heldout = round(count * config.heldout_fraction)
    stored_mask_share = 0.0 if config.masking.dynamic else config.masking.mlm_probability
    return ExampleEstimate(
        count=count - heldout,
        heldout=heldout,
        mean_length=mean,
        max_length=longest,
        # Approximation: few examples are short, so it is between the mean and the maximum length.
        attended_length=(mean + longest) / 2,
        masked_share=config.masking.mlm_probability,
        text_tokens=tokens,
        shard_bytes=shard_bytes(count, round(shard_tokens), round(shard_tokens * stored_mask_share)),
    )


def shard_bytes(examples: int, tokens: int, masks: int) -> int:
    """Return the size of the shards in Arrow's layout: fixed columns and list offsets per row, plus list values."""
    values = {"input_ids": tokens, "mask_positions": masks, "mask_labels": masks}
    row_bits, list_bytes = 0, 0
    for column in EXAMPLES:
        if pa.types.is_list(column.type):
            row_bits += 8 * _OFFSET_BYTES
            list_bytes += values[column.name] * column.type.value_type.bit_width // 8
        else:
            row_bits += column.type.bit_width
    return examples * row_bits // 8 + list_bytes


def meta_models(shape: ModelShapeConfig, config: DistillConfig) -> tuple[Any, Any]:
    """Return student and teacher on the meta device, where weights take no memory."""

    def new_model(family: Architecture, layers: int) -> Any:
        return family.new_masked_lm(
            family.new_config(
                vocab_size=shape.vocabulary,
                hidden_size=shape.dim,
                num_hidden_layers=layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.hidden_dim,
                max_position_embeddings=shape.positions,
            )
        )

    layers = len(config.student.layers) if config.student.layers else max(1, shape.layers // 2)
    with torch.device("meta"):
        return new_model(DISTILBERT, layers), new_model(BERT, shape.layers)


def estimate_training(examples: ExampleEstimate, config: DistillConfig, shape: ModelShapeConfig) -> TrainingEstimate:
    """Estimate the training that `distill` would run on these examples."""
    student, teacher = meta_models(shape, config)
    runs_teacher = config.teacher_cache_dir is None
    sizes = model_size(student), model_size(teacher) if runs_teacher else None
    steps = total_steps(config, examples.count)
    tokens = config.batch_size * examples.mean_length
    flops = _flops(tokens, examples, config, *sizes)
    head_rows = round(tokens * (1.0 if config.losses.compared_positions == "all" else examples.masked_share))
    student_forward = sizes[0].forward_flops(round(tokens), round(tokens * examples.attended_length), head_rows)
    evaluated = min(examples.heldout, config.intervals.heldout_examples or examples.heldout)
    heldout = _flops(evaluated * examples.mean_length, examples, config, *sizes)
    written_gb, kept_gb = checkpoint_gb(count_parameters(student), steps, config.intervals)
    return TrainingEstimate(
        config=config,
        steps=steps,
        tokens_per_step=tokens,
        flops_per_step=flops,
        backward_share=2 * student_forward / flops,
        heldout_flops=heldout * (1 - 2 * student_forward / flops),
        parameters=count_parameters(student),
        student=sizes[0],
        teacher=sizes[1],
        head_rows=head_rows,
        worker_gb=worker_memory_gb(
            config,
            config.losses,
            max_seq_length=examples.max_length,
            masked_share=examples.masked_share,
            model=student,
            teacher=teacher if runs_teacher else None,
        ),
        written_gb=written_gb,
        kept_gb=kept_gb,
    )


def _flops(
    tokens: float, examples: ExampleEstimate, config: DistillConfig, student: ModelSize, teacher: ModelSize | None
) -> float:
    """Return the FLOPs of the forward and backward passes for this many tokens, counted as for the logged `mfu`."""
    size = StepSize(
        tokens=round(tokens),
        padded_tokens=round(tokens),
        masked=round(tokens * examples.masked_share),
        pairs=round(tokens * examples.attended_length),
    )
    return float(flops_per_step(size, student, teacher, config.losses))


def heldout_passes(training: TrainingEstimate) -> int:
    """Return the number of held-out evaluations, which include one before the first step and one at the end."""
    return 1 + math.ceil(training.steps / training.config.intervals.evaluate_every_steps)


def step_work(training: TrainingEstimate, precision: Precision) -> StepWork:
    """Return the work of the micro-steps of one step."""
    config = training.config
    return StepWork(
        flops=training.flops_per_step,
        tokens=training.tokens_per_step,
        head_rows=training.head_rows,
        micro_steps=config.batch_size / config.micro_batch_size,
        student=training.student,
        teacher=training.teacher,
        is_16_bit=precision != "fp32",
        has_compiled_layers=is_compiled(config),
        has_compiled_loss=is_loss_compiled(config, "cuda"),
    )


def fine_tuning_work(training: TrainingEstimate, precision: Precision) -> StepWork:
    """Return the work of fine-tuning the student on some tokens, in large batches."""
    tokens = round(training.tokens_per_step)
    flops = 3.0 * training.student.forward_flops(tokens, 0, 0)
    return StepWork(flops, tokens, 0, 0, training.student, None, is_16_bit=precision != "fp32")


@dataclass(frozen=True)
class DeviceSpeed:
    """Speed of a device in the precision that the recipe uses on it.

    Attributes:
        peak: FLOPs per second.
        mfu: share of the peak that a worker reaches.
        source: origin of the MFU.
    """

    precision: Precision
    peak: float
    mfu: float
    source: str

    @property
    def is_projected(self) -> bool:
        return self.source == PROJECTION


def device_speed(
    config: PlanConfig,
    training: TrainingEstimate,
    device: Device,
    work: Callable[[TrainingEstimate, Precision], StepWork] = step_work,
) -> DeviceSpeed:
    """Return the speed of a device.

    Raises:
        InputError: the device does not support the precision.
    """
    setting = training.config.precision
    precision = fastest_precision(lambda name: device.peak(name) is not None) if setting == "auto" else setting
    peak = device.peak(precision)
    if peak is None:
        raise InputError(f"precision: {device.name} does not support {precision}; change it in the distill recipe")
    if config.cluster.mfu is not None:
        return DeviceSpeed(precision, peak, config.cluster.mfu, "from the recipe")
    if precision in device.mfu:
        return DeviceSpeed(precision, peak, device.mfu[precision], device.source)
    mfu = projected_mfu(work(training, precision), Roofline(peak, device.memory_gb_per_s * _GB))
    return DeviceSpeed(precision, peak, mfu, PROJECTION)


def worker_flops_per_s(
    config: PlanConfig,
    training: TrainingEstimate,
    device: Device,
    work: Callable[[TrainingEstimate, Precision], StepWork] = step_work,
) -> float:
    """Return the FLOPs per second of one worker: peak times MFU, on CPUs also times the cores of the worker."""
    speed = device_speed(config, training, device, work)
    return speed.peak * speed.mfu * (1 if device.is_gpu else training.config.scaling.cpus_per_worker)
