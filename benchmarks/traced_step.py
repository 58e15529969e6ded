"""Distillation step on a simulated GPU: forward and backward passes, loss, optimizer and checkpoint snapshot."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from benchmarks.operation_trace import Location, Operation, OperationTrace, fuse
from distilray.config.distillation import DistillConfig
from distilray.config.plan import ModelShapeConfig
from distilray.distillation.feed import MicroStep, loss_divisors
from distilray.distillation.objective import DistillationLoss, TensorBatch
from distilray.distillation.preparation import LoopSettings, prepare_models
from distilray.distillation.setup import PretrainingObjective
from distilray.models.precision import DTYPES
from distilray.operations.plan.workload import meta_models
from distilray.pretraining_data.batches import Batch
from distilray.pretraining_data.sample_plan import PlanState
from distilray.training.checkpoint import Snapshot, TrainingState
from distilray.training.loop import Hook, train
from distilray.training.meter import StepSize
from distilray.training.optimizer import Updater, create_optimizer
from distilray.training.process_group import Workers
from tests.tiny.fake_cuda import fake_cuda

CUDA = torch.device("cuda")
MASK_SHARE = 0.15
STUDENT, TEACHER, LOSS, UPDATE = "student", "teacher", "loss", "update"  # components


@dataclass(frozen=True)
class StepTrace:
    """Trace of one optimizer step, after a first one that created the state of the optimizer.

    Attributes:
        tokens, masked: tokens and masked tokens of the step.
        operations: with the fused operations of compiled modules, if the config asks for them.
        synchronizations, host_operations: how often the host waits and computes, by location.
        snapshot_synchronizations: copies of tensors to the host for a checkpoint.
        peak_bytes: largest memory of all tensors.
        snapshot_bytes: size of a checkpoint in host memory.
    """

    tokens: int
    masked: int
    operations: list[Operation]
    synchronizations: Counter[Location]
    host_operations: Counter[Location]
    peak_bytes: int
    snapshot_bytes: int

    def flops(self) -> int:
        return sum(operation.flops for operation in self.operations)

    def bytes(self, component: str, kind: str) -> int:
        """Return the bytes that some operations read and write."""
        return sum(each.bytes for each in self.operations if (each.component, each.kind) == (component, kind))


@dataclass
class _Phases(Hook):
    """Labels the operations of the loop, outside of the encoders, and starts the trace with the second step."""

    trace: OperationTrace

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        self.trace.component = UPDATE if phase == "update" else LOSS
        if step == 1 and micro_step == 0 and phase == "data":
            self.trace.operations.clear()
            self.trace.synchronizations.clear()
            self.trace.host_operations.clear()


def trace_step(config: DistillConfig, *, rows: int, length: int, micro_steps: int = 1) -> StepTrace:
    """Trace a step of full micro-batches of `rows` x `length` tokens at the size of BERT base."""
    models = meta_models(ModelShapeConfig(), config)
    dtype = DTYPES[config.precision]
    with fake_cuda(), torch.compiler.set_stance("force_eager"):
        trace = OperationTrace("cuda")
        settings = LoopSettings(config, config.losses, lambda _: models, "", total_steps=2, run_uri="-")
        model, teacher = prepare_models(settings, CUDA, dtype)
        for each in models:
            each.tie_weights()  # moving fake parameters unties them
        for tensor in (*model.parameters(), *model.buffers(), *teacher.parameters(), *teacher.buffers()):
            trace.number(tensor)
        label(trace, model.base_model, STUDENT)
        label(trace, teacher.base_model, TEACHER)
        module = DistillationLoss(model, teacher, config.losses, dtype)
        workers = Workers.single()
        objective = PretrainingObjective(module, config.seed, workers, CUDA)
        updater = Updater(
            model,
            create_optimizer(model, config.optimizer),
            lambda _: 1.0,
            max_grad_norm=config.optimizer.max_grad_norm,
            uses_fp16=config.precision == "fp16",
        )
        batch = example_batch(rows, length)
        batches = micro_batches(batch, micro_steps)
        with trace:
            train(objective, batches, updater, workers, [_Phases(trace)], start=0, total=2)
        operations, synchronizations = trace.operations, Counter(trace.synchronizations)
        host_operations = Counter(trace.host_operations)
        if config.compile:
            operations = list(fuse(operations, trace.live_storages, {STUDENT, TEACHER}))
        with OperationTrace("cuda"):
            state = TrainingState(2, PlanState(0, 0), "")
            snapshot = Snapshot.of(model, updater.optimizer, state, "")
        copies = (*snapshot.weights.values(), *snapshot.moments.values())
        assert all(tensor.device.type == "cpu" for tensor in copies)
        return StepTrace(
            tokens=micro_steps * batch.tokens,
            masked=micro_steps * len(batch.mask_index),
            operations=operations,
            synchronizations=synchronizations,
            host_operations=host_operations,
            peak_bytes=trace.peak_bytes,
            snapshot_bytes=sum(tensor.nbytes for tensor in copies),
        )


def label(trace: OperationTrace, encoder: nn.Module, component: str) -> None:
    """Label the forward and backward passes of an encoder."""

    def enter(*_: Any) -> None:
        trace.component = component

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        trace.component = LOSS
        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.register_hook(enter)

    encoder.register_forward_pre_hook(enter)
    encoder.register_forward_hook(leave)


def example_batch(rows: int, length: int) -> Batch:
    """Return a batch without padding, with 15% of the tokens masked."""
    ids = np.ones((rows, length), np.int64)
    positions = np.arange(round(MASK_SHARE * ids.size), dtype=np.int64)
    return Batch(ids, ids, ids, positions, positions)


def micro_batches(batch: Batch, count: int) -> Iterator[MicroStep]:
    tokens, masked = np.full(len(batch.input_ids), batch.input_ids.shape[1]), np.array([len(batch.mask_index)])
    size = StepSize(count * batch.tokens, count * len(batch.mask_index), int(np.square(tokens).sum()), batch.tokens)
    while True:
        for number in range(count):
            divisors = loss_divisors(tokens, masked)
            yield MicroStep(number, number == count - 1, TensorBatch.of(batch), divisors, size, np.arange(len(tokens)))
