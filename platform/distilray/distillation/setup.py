"""Construction of a training run on one worker, for teacher and student: models, data, objective and hooks."""

import json
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from distilray.distillation.compilation import check_compiler, is_compiled, is_loss_compiled
from distilray.distillation.feed import Feed
from distilray.distillation.heldout import HeldoutEvaluation, HeldoutScorer
from distilray.distillation.objective import DistillationLoss
from distilray.distillation.preparation import LoopSettings, PretrainingObjective, flops_per_step, prepare_models
from distilray.models.flops import model_size, peak_flops
from distilray.models.precision import compute_dtype, configure_arithmetic, precision_of
from distilray.pretraining_data.batches import padded_width, prefetch
from distilray.pretraining_data.sample_plan import SamplePlan
from distilray.pretraining_data.shards import ShardSet, read_splits
from distilray.pretraining_data.tokenizer import vocabulary_of
from distilray.runtime import storage
from distilray.runtime.progress import post_notice
from distilray.runtime.run_owner import check_visible
from distilray.runtime.tracking import open_trackers
from distilray.training.checkpoint import CHECKPOINTS_FOLDER, CheckpointStore
from distilray.training.checkpoint_hook import CheckpointHook
from distilray.training.loop import Hook, Step, Stop, train
from distilray.training.meter import Meter
from distilray.training.optimizer import Updater, create_optimizer, linear_schedule
from distilray.training.preemption import PreemptionWatcher
from distilray.training.process_group import Workers
from distilray.training.reporter import NullReporter, Reporter
from distilray.training.watchdog import HANGS_FOLDER, Watchdog
from distilray.training.workers import worker_device

DIVERGED = "diverged"  # reason to stop
DIVERGED_FOLDER = "diverged"  # ids of the examples of diverged steps


def train_loop(settings: LoopSettings) -> Stop | None:
    """Train on this worker, from the newest checkpoint if there is one. All workers must call it.

    Returns:
        None if training is complete, otherwise the reason why it cannot continue. The reason is returned instead of
        raised so that Ray Train does not restart the run.
    """
    if settings.on_cluster:
        check_visible(settings.run_uri)
    run = _TrainingRun(settings)
    with run.preemption.attribute_errors(), run.watchdog:
        return run.train()


@dataclass(frozen=True)
class DivergenceGuard(Hook):
    """Stops training after too many steps in a row without a finite gradient; records the examples of the last one."""

    updater: Updater
    shards: ShardSet
    plan: SamplePlan
    settings: LoopSettings
    rank: int

    phase = "divergence"

    def after_step(self, step: Step) -> Stop | None:
        limit = self.settings.config.fault_tolerance.max_skipped_steps
        if self.updater.skipped_in_a_row <= limit:
            return None
        number, norm = step.done - 1, step.update.grad_norm
        bad_rows: list[int] = []
        if not math.isfinite(step.terms["loss"]):
            pairs = zip(step.losses.tolist(), step.rows, strict=True)
            bad_rows = [row for loss, rows in pairs if not math.isfinite(loss) for row in rows.tolist()]
        diverged = bad_rows or self.plan.step_rows(number).rows.tolist()
        ids = self.shards.example_ids(np.array(diverged)).tolist()
        record = {"step": number, "grad_norm": str(norm), "loss_not_finite": bool(bad_rows), "example_ids": ids}
        file = self.settings.path(DIVERGED_FOLDER, f"step-{number:07d}-rank-{self.rank}.json")
        storage.write_bytes(file, json.dumps(record, indent=1).encode())
        return Stop(
            DIVERGED,
            f"step {number}: gradient norm is {norm}, after {limit} skipped step(s) in a row; its first examples are "
            f"{ids[:4]}; lower optimizer.learning_rate",
        )


class _TrainingRun:
    """A training run on one worker, built from its settings."""

    def __init__(self, settings: LoopSettings) -> None:
        config = settings.config
        self._settings, self._config, self._workers = settings, config, Workers.from_process_group()
        self._device = worker_device(use_gpu=config.scaling.use_gpu)
        configure_arithmetic(self._device, deterministic=config.deterministic)
        self._dtype = compute_dtype(config.precision, self._device, any_worker=self._workers.any)
        model, teacher = prepare_models(settings, self._device, self._dtype)
        self._size, self._teacher_size = model_size(model), None if teacher is None else model_size(teacher)
        self._loss_module = self._create_loss(model, teacher)
        module = self._workers.wrap(self._loss_module, self._device)
        self._objective = PretrainingObjective(module, config.seed, self._workers, self._device)
        warmup = config.optimizer.warmup_fraction
        schedule = partial(linear_schedule, total_steps=settings.total_steps, warmup_fraction=warmup)
        self._updater = Updater(
            model,
            create_optimizer(model, config.optimizer),
            schedule,
            max_grad_norm=config.optimizer.max_grad_norm,
            uses_fp16=self._dtype == torch.float16,
            keeps_gradients=self._workers.size > 1,
        )
        self._shards = settings.open_shards("train")
        self._plan = SamplePlan(self._shards.shard_rows, config.batch_size, config.seed)
        self._pad_id = vocabulary_of(settings.tokenizer_json).pad
        self.watchdog = Watchdog(
            settings.path(HANGS_FOLDER),
            rank=self._workers.rank,
            num_workers=self._workers.size,
            timeout_s=config.fault_tolerance.hang_timeout_s,
            notice=self._post,
        )
        self.preemption = PreemptionWatcher(
            every_steps=config.intervals.poll_preemption_every_steps, notice=self._post_once
        )
        self._checkpoints = self._checkpoint_hook(model)

    def train(self) -> Stop | None:
        """Train to the last step. Log, evaluate and save checkpoints at the recipe's intervals and at the end."""
        start, total = self._checkpoints.restore(), self._settings.total_steps
        if start:
            self._post_once(f"resuming from the checkpoint of step {start:,} with {self._workers.size} worker(s)")
        with self._open_reporter(start) as reporter:
            evaluation = self._evaluation(reporter)
            if start == 0:
                for hook in evaluation:
                    self.watchdog.on_phase(0, 0, hook.phase)
                    hook.evaluate(0)
            divergence = DivergenceGuard(self._updater, self._shards, self._plan, self._settings, self._workers.rank)
            meter = self._meter(start, reporter)
            hooks = [self.watchdog, divergence, meter, *evaluation, self.preemption, self._checkpoints]
            feed = self._feed()
            batches = prefetch(lambda: feed.micro_steps(start, total))
            stop = train(self._objective, batches, self._updater, self._workers, hooks, start=start, total=total)
            reporter.is_failed = stop is not None
        return stop

    def _create_loss(self, model: Any, teacher: Any | None) -> DistillationLoss:
        config, compiled_loss = self._config, is_loss_compiled(self._config, self._device.type)
        if compiled_loss:
            check_compiler()
        return DistillationLoss(
            model,
            teacher,
            self._settings.losses,
            self._dtype,
            cached=self._settings.teacher_cache_dir is not None,
            compiled=is_compiled(config),
            compiled_loss=compiled_loss,
        )

    def _feed(self) -> Feed:
        return Feed(
            shards=self._shards,
            plan=self._plan,
            rank=self._workers.rank,
            num_workers=self._workers.size,
            micro_batch_size=self._config.micro_batch_size,
            micro_batch_tokens=self._config.micro_batch_tokens,
            reduction=self._settings.losses.reduction,
            pad_id=self._pad_id,
            pinned=self._device.type == "cuda",
            targets=self._settings.open_teacher_cache(self._shards),
        )

    def _checkpoint_hook(self, model: Any) -> CheckpointHook:
        intervals, config_hash = self._config.intervals, self._config.identity_hash()
        folder = self._settings.path(CHECKPOINTS_FOLDER)
        return CheckpointHook(
            store=CheckpointStore(folder, keep=intervals.keep_checkpoints, config_hash=config_hash, notice=self._post),
            workers=self._workers,
            model=model,
            updater=self._updater,
            plan=self._plan,
            config_hash=config_hash,
            tokenizer_json=self._settings.tokenizer_json,
            every_steps=intervals.checkpoint_every_steps,
        )

    def _evaluation(self, reporter: NullReporter) -> list[HeldoutEvaluation]:
        """Return the evaluation on the held-out split, if the shards have one."""
        if "heldout" not in read_splits(self._config.shards_dir):
            return []
        shards, intervals = self._settings.open_shards("heldout"), self._config.intervals
        scorer = HeldoutScorer(
            shards=shards,
            rank=self._workers.rank,
            num_workers=self._workers.size,
            batch_size=self._config.max_rows(padded_width(shards.max_seq_length)),
            pad_id=self._pad_id,
            device=self._device,
            reduce=self._workers.sum_numbers,
            on_batch=self.watchdog.heartbeat,
            targets=self._settings.open_teacher_cache(shards),
            limit=intervals.heldout_examples,
        )
        every_steps, scores = intervals.evaluate_every_steps, self._checkpoints.scores
        return [HeldoutEvaluation(scorer, self._loss_module, every_steps, reporter.log_scores, scores)]

    def _meter(self, start: int, reporter: NullReporter) -> Meter:
        peak = None
        if self._device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(self._device), precision_of(self._dtype))
        return Meter(
            start,
            total_steps=self._settings.total_steps,
            device=self._device,
            reduce=self._workers.sum_numbers,
            peak_flops=None if peak is None else peak * self._workers.size,
            flops_of=lambda size: flops_per_step(size, self._size, self._teacher_size, self._settings.losses),
            report=reporter.log_metrics,
            every_steps=self._config.intervals.log_every_steps,
        )

    def _open_reporter(self, start: int) -> NullReporter:
        if self._workers.rank != 0:
            return NullReporter()
        trackers = open_trackers(
            ("tensorboard", *self._config.trackers.extra),
            run_uri=self._settings.run_uri,
            run_name=self._settings.run_uri.rstrip("/").rpartition("/")[2],
            config=self._config.model_dump(mode="json"),
            start_step=start,
        )
        return Reporter(self._settings.run_uri, start=start, total=self._settings.total_steps, trackers=trackers)

    def _post(self, text: str) -> None:
        post_notice(self._settings.run_uri, text)

    def _post_once(self, text: str) -> None:
        if self._workers.rank == 0:
            self._post(text)
