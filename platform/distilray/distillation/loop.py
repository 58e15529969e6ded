"""The training loop that Ray Train runs on every worker, for the teacher and for the student."""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ray import train
from torch import nn

from distilray.distillation.accumulation import Accumulation
from distilray.distillation.feed import Feed, MicroStep
from distilray.distillation.heldout import HeldoutScores
from distilray.distillation.objective.step import DistillationStep
from distilray.distillation.preparation import LoopSettings, flops_of_step, peak_of_device, prepare_models
from distilray.errors import InputError
from distilray.models.flops import model_size
from distilray.models.precision import compute_dtype
from distilray.pretraining_data.batches import prefetched
from distilray.pretraining_data.sample_plan import SamplePlan
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet, splits_of_run
from distilray.pretraining_data.tokenizer import tokenizer_hash, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.reporting.notices import post_notice
from distilray.runtime.reporting.tracking import open_trackers
from distilray.runtime.run_owner import check_visible
from distilray.training.checkpoint import BrokenCheckpointError, CheckpointStore, Snapshot, TrainingState
from distilray.training.meter import Meter
from distilray.training.optimizer import Updater
from distilray.training.preemption import GoingMachines
from distilray.training.process_group import Workers
from distilray.training.reporter import NoReporter, Reporter
from distilray.training.watchdog import HANGS_FOLDER, Watchdog
from distilray.training.workers import worker_device

CHECKPOINTS_FOLDER = "checkpoints"
DIVERGED_FOLDER = "diverged"


def train_loop(arguments: Mapping[str, LoopSettings]) -> dict[str, Any]:
    """Runs on each worker: trains from the newest checkpoint, or the start, to the last step.

    Returns:
        The finished steps; with `stopped`, why the run cannot go on, so that Ray Train does not try it again.
    """
    settings = arguments["settings"]
    if settings.on_cluster:
        check_visible(settings.run_uri)
    loop = TrainingLoop(settings)
    with loop.machines.blamed(), loop.watchdog:
        return loop.run()


class TrainingLoop:
    """One worker's part of a training run."""

    def __init__(self, settings: LoopSettings) -> None:
        self._settings, self._config = settings, settings.config
        self._workers = Workers.of_process_group()
        self._rank, self._num_workers = self._workers.rank, self._workers.size
        self._device = worker_device(use_gpu=self._config.scaling.use_gpu)
        self._dtype = compute_dtype(self._config.precision, self._device)
        model, teacher = prepare_models(settings, self._device, self._dtype)
        self._model, self._size = model, model_size(model)
        self._teacher_size = None if teacher is None else model_size(teacher)
        autocast_dtype = None if self._dtype == torch.float32 else self._dtype
        cached = settings.teacher_cache_dir is not None
        self._step = DistillationStep(model, teacher, settings.losses, autocast_dtype, cached=cached)
        module = self._workers.wrap(self._step, self._device)
        uses_fp16 = self._dtype == torch.float16
        self._updater = Updater(model, self._config.optimizer, total_steps=settings.total_steps, uses_fp16=uses_fp16)
        shards = self._shards("train")
        self._plan = SamplePlan(shards.shard_rows, self._config.batch_size, self._config.seed)
        self._pad_id = vocabulary_of(settings.tokenizer_json).pad
        self._feed = self._feed_of(shards)
        self.watchdog = Watchdog(
            settings.path(HANGS_FOLDER),
            rank=self._rank,
            num_workers=self._num_workers,
            timeout_s=self._config.faults.hang_timeout_s,
            notice=self._notice,
        )
        self._accumulation = self._accumulation_in(module)
        self._config_hash = self._config.identity_hash()
        self._store = CheckpointStore(
            settings.path(CHECKPOINTS_FOLDER),
            keep=self._config.rhythm.keep_checkpoints,
            config_hash=self._config_hash,
            notice=self._notice,
        )
        self._heldout_metrics: Mapping[str, float] = {}
        self._reporter = NoReporter()
        self.machines = GoingMachines(train.get_preemption_info, every_steps=self._config.rhythm.preemption_every_steps)

    def run(self) -> dict[str, Any]:
        """Trains to the last step; scores and checkpoints at the rhythm of the recipe and at the end."""
        start, total = self._restore(), self._settings.total_steps
        with self._open_reporter(start) as self._reporter:
            if start == 0:
                self._score(0)
            meter = self._meter(start)
            batches = meter.timed(prefetched(lambda: self._feed.micro_steps(start, total)))
            for step in range(start, total):
                ended = self._take(step, batches, meter) or self._look_around(step + 1, is_last=step + 1 == total)
                if ended:
                    self._reporter.is_failed = True
                    return {"steps": step, **ended}
        return {"steps": total}

    def _take(self, step: int, batches: Iterator[MicroStep], meter: Meter) -> dict[str, str]:
        """One optimiser step and its row; says why the run ends, if it does."""
        found = self._accumulation.run(step, batches)
        self.watchdog.moved(step, 0, "update")
        update = self._updater.update(step)
        self.watchdog.moved(step, 0, "exchange")  # of sums, and of what is known about machines
        meter.add(
            found.terms,
            tokens=found.size.tokens,
            slots=found.size.slots,
            flops=flops_of_step(found.size, self._size, self._teacher_size, self._settings.losses),
            skipped=update.is_skipped,
        )
        if self._updater.skipped_in_a_row > self._config.faults.max_skipped_steps:
            return {"diverged": self._diverged(step, update.grad_norm, found.odd_rows)}
        if step + 1 == self._settings.total_steps or (step + 1) % self._config.rhythm.log_every_steps == 0:
            row = meter.row(step + 1) | {"learning_rate": update.learning_rate, "grad_norm": update.grad_norm}
            self._reporter.row({name: value for name, value in row.items() if math.isfinite(value)})
        return {}

    def _look_around(self, done: int, *, is_last: bool) -> dict[str, str]:
        """Scores and checkpoint when they are due, or a machine is about to go; says why the run ends, if it does."""
        rhythm = self._config.rhythm
        if is_last or done % rhythm.evaluate_every_steps == 0:
            self._score(done)
        news = None if is_last else self.machines.news(done)
        if news and self._rank == 0:
            self._notice(f"{news}: checkpoint of step {done:,} now")
        if is_last or news or done % rhythm.checkpoint_every_steps == 0:
            problem = self._save(done, at_once=is_last or news is not None)
            return {"stopped": problem} if problem else {}
        return {}

    def _shards(self, split: str) -> ShardSet:
        return ShardSet(
            self._config.shards_dir,
            split,
            tokenizer_hash=tokenizer_hash(self._settings.tokenizer_json),
            cache=ShardCache(self._config.cache),
        )

    def _feed_of(self, shards: ShardSet) -> Feed:
        """The micro-steps of this worker."""
        return Feed(
            shards=shards,
            plan=self._plan,
            rank=self._rank,
            num_workers=self._num_workers,
            micro_batch_size=self._config.micro_batch_size,
            reductions=self._settings.losses.reductions,
            pad_id=self._pad_id,
            pinned=self._device.type == "cuda",
            targets=self._settings.targets_of(shards),
        )

    def _accumulation_in(self, module: nn.Module) -> Accumulation:
        """Gradients of micro-steps in the trained model."""
        return Accumulation(
            module=module,
            scaled=self._updater.scaled,
            seed=self._config.seed,
            rank=self._rank,
            num_workers=self._num_workers,
            device=self._device,
            moved=self.watchdog.moved,
        )

    def _restore(self) -> int:
        """Takes up the newest whole checkpoint, the same on every worker; returns the finished steps."""
        found = self._store.newest() if self._rank == 0 else None
        step = int(self._workers.broadcast(str(found.step if found else 0)))
        if step == 0:
            return 0
        restored = self._store.state(step)
        if restored.plan != self._plan.state(restored.step):
            raise BrokenCheckpointError(
                f"{self._store.path(restored.step)}: {restored.plan} after {restored.step} steps, and these shards and "
                f"batch_size give {self._plan.state(restored.step)}; it belongs to another run"
            )
        self._store.restore(restored.step, self._model, self._updater.optimizer)
        self._updater.skipped, self._updater.skipped_in_a_row = restored.skipped_steps
        self._updater.load_scaler_state(restored.scaler)
        self._heldout_metrics = restored.metrics
        if self._rank == 0:
            self._notice(f"going on from the checkpoint of step {restored.step:,} with {self._num_workers} worker(s)")
        return restored.step

    def _score(self, done: int) -> None:
        """Scores the model on the held-out split, if there is one; all workers together."""
        if "heldout" not in splits_of_run(self._config.shards_dir):
            return
        self.watchdog.moved(done, 0, "scores")
        self._heldout_metrics = self._heldout.score(self._step)
        self._reporter.scores({"step": done, **self._heldout_metrics})

    @functools.cached_property
    def _heldout(self) -> HeldoutScores:
        shards = self._shards("heldout")
        return HeldoutScores(
            shards=shards,
            rank=self._rank,
            num_workers=self._num_workers,
            batch_size=self._config.micro_batch_size,
            pad_id=self._pad_id,
            device=self._device,
            reduce=self._workers.sum_numbers,
            moved=self.watchdog.works,
            targets=self._settings.targets_of(shards),
            limit=self._config.rhythm.heldout_examples,
        )

    def _save(self, done: int, *, at_once: bool) -> str | None:
        """The first worker writes a checkpoint; all learn what went wrong with it, or with the one before."""
        self.watchdog.moved(done, 0, "checkpoint")
        problem = ""
        if self._rank == 0:
            state = TrainingState(
                step=done,
                plan=self._plan.state(done),
                config_hash=self._config_hash,
                skipped_steps=(self._updater.skipped, self._updater.skipped_in_a_row),
                scaler=self._updater.scaler_state(),
                metrics=self._heldout_metrics,
            )
            try:
                self._store.save(
                    Snapshot.of(self._model, self._updater.optimizer, state, self._settings.tokenizer_json)
                )
                if at_once:
                    self._store.wait()
            except InputError as error:
                problem = str(error)
        return self._workers.broadcast(problem) or None

    def _diverged(self, step: int, norm: float, odd: list[int]) -> str:
        """Writes the ids of the examples that this worker had when the run was given up; says where."""
        rows = odd or self._plan.step_rows(step).rows.tolist()
        ids = self._feed.shards.example_ids(np.array(rows)).tolist()
        record = {"step": step, "grad_norm": str(norm), "loss_not_finite": bool(odd), "example_ids": ids}
        file = self._settings.path(DIVERGED_FOLDER, f"step-{step:07d}-rank-{self._rank}.json")
        storage.write_bytes(file, json.dumps(record, indent=1).encode())
        limit = self._config.faults.max_skipped_steps
        return (
            f"step {step}: gradient norm is {norm}, after {limit} skipped step(s) in a row; its examples begin with "
            f"{ids[:4]}; lower optimizer.learning_rate"
        )

    def _notice(self, text: str) -> None:
        post_notice(self._settings.run_uri, text)

    def _meter(self, start: int) -> Meter:
        peak = peak_of_device(self._device, self._dtype)
        return Meter(
            start,
            total_steps=self._settings.total_steps,
            device=self._device,
            reduce=self._workers.sum_numbers,
            peak_flops=None if peak is None else peak * self._num_workers,
        )

    def _open_reporter(self, start: int) -> NoReporter:
        if self._rank != 0:
            return NoReporter()
        trackers = open_trackers(
            ("tensorboard", *self._config.trackers.also),
            run_uri=self._settings.run_uri,
            run_name=self._settings.run_uri.rstrip("/").rpartition("/")[2],
            config=self._config.model_dump(mode="json"),
            start_step=start,
        )
        return Reporter(self._settings.run_uri, start=start, total=self._settings.total_steps, trackers=trackers)
