"""Models with random weights, shards of random examples, and training on them with the product's own step."""

import copy
import functools
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.cells import Cell
from distilray.config.distillation import DistillConfig, OptimizerConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.distillation.compilation import is_compiled, is_loss_compiled
from distilray.distillation.feed import Feed
from distilray.distillation.objective import DistillationLoss
from distilray.distillation.preparation import LoopSettings, PretrainingObjective, flops_per_step, prepare_models
from distilray.models.architectures import BERT
from distilray.models.flops import model_size, peak_flops
from distilray.models.precision import DTYPES, configure_arithmetic
from distilray.models.student import create_student
from distilray.pretraining_data.batches import prefetch
from distilray.pretraining_data.sample_plan import SamplePlan
from distilray.pretraining_data.shards import ShardSet, write_shard
from distilray.pretraining_data.token_ids import list_array
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import EXAMPLES
from distilray.training.loop import Hook, Step, Stop, train
from distilray.training.meter import Meter
from distilray.training.optimizer import Updater, create_optimizer, linear_schedule
from distilray.training.process_group import Workers

SEED, MASK_SHARE, MASK_ID, FIRST_ID, SHORT_SHARE = 5, 0.15, 103, 999, 0.1
# A short warm-up, and a rate that hardly decays within the benchmark.
SCHEDULE = functools.partial(linear_schedule, total_steps=2000, warmup_fraction=0.005)


@dataclass(frozen=True)
class Size:
    """Size of the workload.

    Attributes:
        model: settings of the teacher that differ from BERT base.
        length: tokens of the longest example.
        examples: examples in the shards.
        step_examples: examples of an optimizer step.
        steps: optimizer steps of a measurement.
        training_s, training_steps: duration of the training run in seconds, and at most in steps.
        service_s: seconds of each measurement of the service.
    """

    model: Mapping[str, int]
    length: int
    examples: int
    step_examples: int
    steps: int
    training_s: float
    training_steps: int
    service_s: float


SIZES = {
    "base": Size(
        {},
        length=512,
        examples=8192,
        step_examples=256,
        steps=5,
        training_s=60.0,
        training_steps=100_000,
        service_s=1.0,
    ),
    "tiny": Size(
        {
            **{"vocab_size": 1200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 2, "max_position_embeddings": 64},
        },
        length=32,
        examples=256,
        step_examples=16,
        steps=2,
        training_s=math.inf,
        training_steps=20,
        service_s=0.1,
    ),
}


def write_shards(folder: str, *, examples: int, length: int, vocabulary: int) -> ShardSet:
    """Write random examples as a run folder of `encode_corpus`, and open it.

    The lengths are those of `encode_corpus`: the maximum, or for a tenth of the examples uniform below it. The
    frequency of an id is inversely proportional to its rank (Zipf), so that there is something to learn.
    """
    rng = np.random.default_rng(SEED)
    is_short = rng.random(examples) < SHORT_SHARE
    lengths = np.where(is_short, rng.integers(8, length + 1, size=examples), length)
    ranks = np.arange(1, vocabulary - FIRST_ID + 1)
    ids = rng.choice(ranks, size=int(lengths.sum()), p=1 / ranks / (1 / ranks).sum()) + FIRST_ID - 1
    counts = np.maximum(1, np.floor(MASK_SHARE * lengths + 0.5)).astype(np.int64)
    positions = np.concatenate(
        [np.sort(rng.choice(size, count, replace=False)) for size, count in zip(lengths, counts, strict=True)]
    )
    at_masks = positions + np.repeat(np.cumsum(lengths) - lengths, counts)
    labels = ids[at_masks]
    ids[at_masks] = MASK_ID
    numbers = np.arange(examples)
    columns = {
        "example_id": numbers,
        "shuffle_key": numbers,
        "input_ids": list_array(ids.astype(np.uint16), lengths),
        "segment_b_start": lengths // 2,
        "mask_positions": list_array(positions.astype(np.uint16), counts),
        "mask_labels": list_array(labels.astype(np.uint16), counts),
        "is_random_next": np.zeros(examples, bool),
        "trimmed": np.zeros(examples, np.int64),
        "document_a": numbers,
        "document_b": numbers,
    }
    table = pa.Table.from_arrays([pa.array(columns[each.name], type=each.type) for each in EXAMPLES], schema=EXAMPLES)
    values = {"run_dir": folder, "corpus_dir": "unused", "tokenizer_dir": "unused", "max_seq_length": max(16, length)}
    run = RunFolder("encode_corpus", EncodeCorpusConfig.model_validate(values), {})
    run.begin()
    name = f"shards/train-{0:016x}.arrow"
    entry = {"split": "train", **write_shard(table, run.path(name))}
    run.finish({"tokenizer_hash": "none"}, {name: entry}, "random examples")
    return ShardSet(folder, "train")


class Workload:
    """Shards and models of the benchmark on one device.

    Args:
        folder: empty folder for the shards.
        length: tokens of the longest example, if not that of the size.
    """

    def __init__(self, size: Size, device: torch.device, folder: Path, length: int | None = None) -> None:
        torch.manual_seed(SEED)
        self.size, self.device, self.length = size, device, length or size.length
        self.teacher = BERT.new_masked_lm(BERT.new_config(**size.model)).eval()
        self.student = create_student(self.teacher)[0]
        vocabulary = self.teacher.config.vocab_size
        self.shards = write_shards(
            str(folder / "shards"), examples=size.examples, length=self.length, vocabulary=vocabulary
        )
        self._prepared: tuple[Any, Any, Any] = (None, None, None)

    def config(self, cell: Cell, *, device: torch.device | None = None, dropout: float | None = None) -> DistillConfig:
        """Return the recipe of a cell."""
        is_gpu = (device or self.device).type == "cuda"
        return DistillConfig.model_validate(
            {
                **dict.fromkeys(("run_dir", "shards_dir", "teacher_dir"), "unused"),
                "batch_size": max(self.size.step_examples, cell.rows),
                "micro_batch_size": cell.rows,
                "precision": cell.precision,
                "compile": cell.compile,
                "dropout": dropout,
                "losses": {"ce_positions": cell.positions},
                "scaling": {"num_workers": 1, "use_gpu": is_gpu, "cpus_per_worker": torch.get_num_threads()},
            }
        )

    def models(self, config: DistillConfig, device: torch.device) -> tuple[Any, Any]:
        """Return student and teacher with their initial weights. Those of the last call are used again if possible."""
        key = (config.precision, config.compile, config.dropout, device)
        if self._prepared[0] != key:
            self.release()
            settings = LoopSettings(
                config, config.losses, lambda _: copy.deepcopy((self.student, self.teacher)), "", 1, "unused"
            )
            configure_arithmetic(device, deterministic=False)
            self._prepared = (key, *prepare_models(settings, device, DTYPES[config.precision]))
        _, student, teacher = self._prepared
        student.load_state_dict(self.student.state_dict())
        student.zero_grad()
        return student, teacher

    def release(self) -> None:
        """Drop the prepared models, and free the memory of the device."""
        self._prepared = (None, None, None)
        self.free()

    def free(self) -> None:
        """Free unused memory of the device, and reset its peak."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


class Synchronization(Hook):
    """Waits for the device after each step, so that the meter measures all of it."""

    def after_step(self, step: Step) -> Stop | None:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return None


@dataclass
class Training:
    """Training of the workload's student.

    Attributes:
        wrap: wraps the loss module, for DDP.
        dropout: dropout of the student; None for that of the model.
    """

    workload: Workload
    cell: Cell
    device: torch.device
    wrap: Callable[[nn.Module], nn.Module] = field(default=lambda module: module)
    dropout: float | None = None

    def __post_init__(self) -> None:
        self.config = self.workload.config(self.cell, device=self.device, dropout=self.dropout)
        dtype = DTYPES[self.cell.precision]
        self.student, self.teacher = self.workload.models(self.config, self.device)
        loss = DistillationLoss(
            self.student,
            self.teacher,
            self.config.losses,
            dtype,
            compiled=is_compiled(self.config),
            compiled_loss=is_loss_compiled(self.config, self.device.type),
        )
        self.objective = PretrainingObjective(self.wrap(loss), SEED, Workers.single(), self.device)
        self.updater = Updater(
            self.student,
            create_optimizer(self.student, OptimizerConfig()),
            SCHEDULE,
            max_grad_norm=5.0,
            uses_fp16=dtype == torch.float16,
            keeps_gradients=isinstance(self.objective.module, DistributedDataParallel),
        )

    def feed(self) -> Feed:
        shards = self.workload.shards
        return Feed(
            shards=shards,
            plan=SamplePlan(shards.shard_rows, self.config.batch_size, SEED),
            rank=0,
            num_workers=1,
            micro_batch_size=self.config.micro_batch_size,
            reduction="global",
            pad_id=0,
            pinned=self.device.type == "cuda",
        )

    def run(self, start: int, stop: int, *, hooks: Sequence[Hook] = ()) -> list[dict[str, Any]]:
        """Train from step `start` up to `stop`, and return the meter's row of each step."""
        rows: list[dict[str, Any]] = []
        sizes, losses = (model_size(self.student), model_size(self.teacher)), self.config.losses
        batches = prefetch(lambda: self.feed().micro_steps(start, stop))
        meter = Meter(
            start,
            total_steps=stop,
            device=self.device,
            peak_flops=device_peak(self.device, self.cell.precision),
            flops_of=lambda step_size: flops_per_step(step_size, *sizes, losses),
            report=lambda row: rows.append(dict(row)),
        )
        try:
            all_hooks = [Synchronization(), meter, *hooks]
            train(self.objective, batches, self.updater, Workers.single(), all_hooks, start=start, total=stop)
        finally:
            batches.close()  # type: ignore[attr-defined]
        return rows


def device_peak(device: torch.device, precision: str) -> float | None:
    return peak_flops(torch.cuda.get_device_name(device), precision) if device.type == "cuda" else None


def allocated_bytes(device: torch.device) -> int:
    """Return the memory that is in use now: of tensors on a GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])
