"""The training loop that Ray Train runs on every worker, for the teacher and for the student."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ray import train
from ray.train.torch import get_device
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distilray.config.distillation import LossConfig, TrainingConfig
from distilray.distillation.checkpoint import BrokenCheckpointError, restore_checkpoint, saved_checkpoint
from distilray.distillation.optim import create_optimizer, rate_factor, set_learning_rate
from distilray.distillation.step import DistillationStep, StepCounts, TensorBatch
from distilray.models.masked_lm import compute_dtype
from distilray.pretraining_data.batches import collate, padded_width, prefetched
from distilray.pretraining_data.sample_plan import SamplePlan, micro_batches
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import tokenizer_hash, vocabulary_of
from distilray.runtime.metrics import MetricsLog
from distilray.runtime.seeding import hash_integers


class DivergedError(RuntimeError):
    """The gradient is not finite; training on would destroy the weights."""


@dataclass(frozen=True)
class LoopSettings:
    """What a worker needs to know; it travels from the driver to every worker.

    Attributes:
        create_models: (config) -> the model to train and the frozen teacher or None.
        metrics_uri: where the first worker writes `metrics.jsonl`.
    """

    config: TrainingConfig
    losses: LossConfig
    create_models: Callable[[Any], tuple[Any, Any | None]]
    tokenizer_json: str
    total_steps: int
    metrics_uri: str


def train_loop(arguments: Mapping[str, LoopSettings]) -> None:
    """Runs on each worker: trains from the newest checkpoint, or the start, to the last step."""
    TrainingLoop(arguments["settings"]).run()


class TrainingLoop:
    """One worker's part of a training run."""

    def __init__(self, settings: LoopSettings) -> None:
        context = train.get_context()
        self._settings, self._config = settings, settings.config
        self._rank, self._num_workers = context.get_world_rank(), context.get_world_size()
        self._device = get_device() if self._config.scaling.use_gpu else torch.device("cpu")
        if self._device.type == "cpu":
            torch.set_num_threads(self._config.scaling.cpus_per_worker)
        torch.manual_seed(self._config.seed)  # a fresh head is the same on every worker
        model, teacher = settings.create_models(self._config)
        self._dtype = compute_dtype(self._config.precision, self._device)
        if teacher is not None:
            teacher = teacher.to(self._device, self._dtype).requires_grad_(False).eval()
        self._model = model.to(self._device).train()
        if self._device.type == "cpu":
            # The backward pass of torch's fused attention is the slowest part of a step on a CPU; with plain matrix
            # products the whole step is 1.1 to 1.3 times as fast (docs/benchmarks.md).
            self._model.set_attn_implementation("eager")
        _set_dropout(self._model, self._config.dropout)
        self._optimizer = create_optimizer(self._model, self._config.optimizer)
        autocast_dtype = None if self._dtype == torch.float32 else self._dtype
        self._step_module: nn.Module = DistillationStep(self._model, teacher, settings.losses, autocast_dtype)
        if self._num_workers > 1:
            devices = [self._device] if self._device.type == "cuda" else None
            self._step_module = DistributedDataParallel(self._step_module, device_ids=devices)
        self._shards = ShardSet(
            self._config.shards_dir,
            "train",
            tokenizer_hash=tokenizer_hash(settings.tokenizer_json),
            cache=ShardCache(self._config.cache),
        )
        self._plan = SamplePlan(self._shards.shard_rows, self._config.batch_size, self._config.seed)
        self._pad_id = vocabulary_of(settings.tokenizer_json).pad

    def run(self) -> None:
        """Trains to the last step; checkpoints at the rhythm of the recipe and at the end."""
        checkpoint = train.get_checkpoint()
        start = 0
        if checkpoint is not None:
            start, state = restore_checkpoint(checkpoint, self._model, self._optimizer)
            if state != self._plan.state(start):
                raise BrokenCheckpointError(
                    f"{checkpoint.path}: {state} after {start} steps, and these shards and batch_size give "
                    f"{self._plan.state(start)}; it belongs to another run"
                )
        log = MetricsLog(self._settings.metrics_uri, keep_to_step=start) if self._rank == 0 else None
        meter = _Meter(start)
        batches = prefetched(lambda: self._batches(start))
        for step in range(start, self._settings.total_steps):
            rate = self._set_rate(step)
            terms, norm, last = self._optimiser_step(step, batches)
            meter.add(terms, tokens=last.counts.tokens, slots=last.slots)
            done = step + 1
            is_last = done == self._settings.total_steps
            if is_last or done % self._config.rhythm.log_every_steps == 0:
                row = meter.row(done, self._num_workers) | {"learning_rate": rate, "grad_norm": norm}
                if log is not None:
                    log.append(row | {"total_steps": self._settings.total_steps})
            if is_last or done % self._config.rhythm.checkpoint_every_steps == 0:
                self._report(done)

    def _set_rate(self, step: int) -> float:
        factor = rate_factor(
            step,
            total_steps=self._settings.total_steps,
            warmup_fraction=self._config.optimizer.warmup_fraction,
        )
        return set_learning_rate(self._optimizer, factor)

    def _optimiser_step(
        self, step: int, batches: Iterator["_MicroStep"]
    ) -> tuple[Mapping[str, float], float, "_MicroStep"]:
        """Forward and backward of this worker's micro-batches, then one update; terms, norm and the last of them."""
        sums: dict[str, torch.Tensor] = {}
        while True:
            micro = next(batches)
            # Dropout depends on the step and the worker alone, so that a resumed run repeats it.
            torch.manual_seed(int(hash_integers(self._config.seed, step, micro.number, self._rank) >> np.uint64(1)))
            sync: Any = contextlib.nullcontext()
            if self._num_workers > 1 and not micro.is_last:
                sync = self._step_module.no_sync()  # type: ignore[operator]
            with sync:
                loss, terms = self._step_module(micro.batch.to(self._device), micro.counts)
                (loss * self._num_workers).backward()  # DDP averages over workers, the loss terms add up over them
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term
            sums["loss"] = sums.get("loss", torch.zeros_like(loss)) + loss.detach()
            if micro.is_last:
                break
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._config.optimizer.max_grad_norm)
        if not torch.isfinite(norm):
            rows = self._plan.step_rows(step).rows
            raise DivergedError(
                f"step {step}: gradient norm is {norm.item()}, rows {rows[:8].tolist()}...; lower the rate"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {name: float(term) for name, term in sums.items()}, float(norm), micro

    def _batches(self, start: int) -> Iterator["_MicroStep"]:
        """This worker's micro-batches from step `start` to the end."""
        shards, pinned, fetched = self._shards, self._device.type == "cuda", None
        for step in range(start, self._settings.total_steps):
            planned = self._plan.step_rows(step)
            if (ahead := self._plan.shards_ahead(step)) != fetched:
                shards.fetch(ahead)
                fetched = ahead
            lengths = shards.lengths(planned.rows)
            masked = int(shards.mask_counts(planned.rows, planned.epochs).sum())
            counts = StepCounts(int(lengths.sum()), max(1, masked))
            parts = micro_batches(
                lengths, num_workers=self._num_workers, micro_batch_size=self._config.micro_batch_size
            )
            slots = sum(len(places) * padded_width(int(lengths[places].max())) for places in parts)
            own = parts[self._rank :: self._num_workers]
            for number, places in enumerate(own):
                batch = TensorBatch.of(collate(shards, planned.take(places), pad_id=self._pad_id), pinned=pinned)
                yield _MicroStep(number, number == len(own) - 1, batch, counts, slots)

    def _report(self, done: int) -> None:
        """Every worker reports; the first one hands over the checkpoint."""
        name = f"step-{done:07d}"
        if self._rank != 0:
            train.report({"step": done}, checkpoint_dir_name=name)
            return
        saved = saved_checkpoint(
            self._model,
            self._optimizer,
            step=done,
            state=self._plan.state(done),
            tokenizer_json=self._settings.tokenizer_json,
        )
        with saved as checkpoint:
            train.report({"step": done}, checkpoint=checkpoint, checkpoint_dir_name=name)


@dataclass(frozen=True)
class _MicroStep:
    """A micro-batch of this worker; `counts` and `slots` (tokens and padding) are of the whole step."""

    number: int
    is_last: bool
    batch: TensorBatch
    counts: StepCounts
    slots: int


class _Meter:
    """Means over the steps since the last row."""

    def __init__(self, start: int) -> None:
        self._done = start
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._tokens, self._slots, self._since = 0, 0, time.perf_counter()

    def add(self, terms: Mapping[str, float], *, tokens: int, slots: int) -> None:
        """One step: this worker's share of each term; the tokens of the whole step, and these with padding."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._tokens += tokens
        self._slots += slots

    def row(self, done: int, num_workers: int) -> dict[str, Any]:
        """Mean terms over all workers and steps, and tokens per second of all workers together."""
        names, steps = sorted(self._sums), done - self._done
        values = torch.tensor([self._sums[name] for name in names], dtype=torch.float64)
        if num_workers > 1:
            device = get_device() if torch.distributed.get_backend() == "nccl" else torch.device("cpu")
            values = values.to(device)
            torch.distributed.all_reduce(values)
        elapsed = time.perf_counter() - self._since
        row = {"step": done, **{name: value / steps for name, value in zip(names, values.tolist(), strict=True)}}
        row |= {
            "tokens_per_s": self._tokens / elapsed,
            "padding": 1 - self._tokens / self._slots,
            "time": time.time(),
        }
        self._done = done
        self._reset()
        return row


def _set_dropout(model: nn.Module, dropout: float | None) -> None:
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
