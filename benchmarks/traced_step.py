"""Distillation step on a simulated GPU: forward and backward passes, loss, optimizer and checkpoint snapshot."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.operation_trace import Location, Operation, OperationTrace, fuse
from distilray.config.distillation import DistillConfig, OptimizerConfig
from distilray.config.plan import ModelShapeConfig
from distilray.distillation import objective, vocabulary_loss
from distilray.distillation.feed import MicroStep, loss_divisors
from distilray.distillation.objective import DistillationLoss, TensorBatch
from distilray.distillation.preparation import LoopSettings, PretrainingObjective, prepare_models
from distilray.distillation.vocabulary_terms import StudentLogits, fused_vocabulary_terms
from distilray.models.flops import model_size, step_flops
from distilray.models.precision import DTYPES
from distilray.operations.plan.roofline import Roofline
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
# Components of a step. The head is the transform before the output matrix, and the losses on hidden states.
TEACHER, STUDENT, HEAD, VOCABULARY_LOSS, UPDATE = "teacher", "student", "head", "vocabulary loss", "update"
COMPONENTS = (TEACHER, STUDENT, HEAD, VOCABULARY_LOSS, UPDATE)
VARIANTS: dict[str, tuple[str, ...]] = {  # compiled components
    "eager": (),
    "fused loss": (VOCABULARY_LOSS,),
    "compiled": (VOCABULARY_LOSS, STUDENT, TEACHER),
}


@dataclass(frozen=True)
class StepTrace:
    """Trace of an optimizer step whose optimizer has a state already.

    Attributes:
        tokens: tokens of the step.
        model_flops: FLOPs as counted for MFU.
        synchronizations, host_operations: how often the host waits for the device and computes, by location.
        peak_bytes: largest memory of all tensors on the device.
        snapshot_bytes: size of a checkpoint in host memory.
    """

    tokens: int
    model_flops: int
    operations: list[Operation]
    synchronizations: Counter[Location]
    host_operations: Counter[Location]
    peak_bytes: int
    snapshot_bytes: int = 0

    def flops(self) -> int:
        return sum(operation.flops for operation in self.operations)

    def bytes(self, component: str | None = None, kind: str | None = None) -> int:
        """Return the bytes that the operations of a component or kind read and write."""
        return sum(
            each.bytes for each in self.operations if component in (None, each.component) and kind in (None, each.kind)
        )

    def seconds(self, device: Roofline) -> float:
        """Return the projected time of all micro-steps, without the update."""
        return sum(device.seconds(each.flops, each.bytes) for each in self.operations if each.component != UPDATE)

    def mfu(self, device: Roofline) -> float:
        return self.model_flops / (device.flops_per_s * self.seconds(device))

    def summary(self) -> dict[str, Any]:
        """Return the trace as JSON values."""
        traffic: dict[str, int] = {}
        for each in self.operations:
            key = f"{each.component}, {each.kind}"
            traffic[key] = traffic.get(key, 0) + each.bytes
        return {
            "tokens": self.tokens,
            "flops": self.flops(),
            "model_flops": self.model_flops,
            "bytes": traffic,
            "synchronizations": {f"{each.what} at {each.where}": n for each, n in self.synchronizations.items()},
            "host_operations": {f"{each.what} at {each.where}": n for each, n in self.host_operations.items()},
            "peak_bytes": self.peak_bytes,
            "snapshot_bytes": self.snapshot_bytes,
        }


@dataclass
class _Phases(Hook):
    """Labels the operations outside of encoders and vocabulary loss."""

    trace: OperationTrace

    def on_phase(self, step: int, micro_step: int, phase: str) -> None:
        self.trace.component = UPDATE if phase == "update" else HEAD


def distill_config(**values: Any) -> DistillConfig:
    return DistillConfig.model_validate({"run_dir": "-", "shards_dir": "-", "teacher_dir": "-", **values})


def trace_step(
    config: DistillConfig, *, rows: int, length: int, micro_steps: int = 1, compiled: tuple[str, ...] = ()
) -> StepTrace:
    """Trace a step of full micro-batches of `rows` x `length` tokens at the size of BERT base.

    Args:
        compiled: components whose operations are counted as fused.
    """
    models = meta_models(ModelShapeConfig(), config)
    dtype, losses = DTYPES[config.precision], config.losses
    with fake_cuda(), torch.compiler.set_stance("force_eager"):
        trace = OperationTrace("cuda")
        settings = LoopSettings(config, losses, lambda _: models, "", total_steps=1, run_uri="-")
        model, teacher = prepare_models(settings, CUDA, dtype)
        for each, component in ((model, STUDENT), (teacher, TEACHER)):
            each.tie_weights()  # fake parameters are untied when they are moved
            track(trace, each)
            label_encoder(trace, each.base_model, component)
        module = DistillationLoss(model, teacher, losses, dtype, compiled_loss=VOCABULARY_LOSS in compiled)
        workers = Workers.single()
        training = PretrainingObjective(module, config.seed, workers, CUDA)
        updater = create_updater(model, config.optimizer, uses_fp16=config.precision == "fp16")
        batch = example_batch(rows, length)
        with trace, labeled_loss(trace):
            create_optimizer_state(updater.optimizer)
            trace.clear()
            train(training, micro_batches(batch, micro_steps), updater, workers, [_Phases(trace)], start=0, total=1)
        snapshot = Snapshot.of(model, updater.optimizer, TrainingState(1, PlanState(0, 0), ""), "")
        head_rows = micro_steps * (batch.tokens if losses.compared_positions == "all" else len(batch.mask_index))
        tokens = micro_steps * batch.tokens
        flops = step_flops(
            model_size(model),
            teacher=model_size(teacher),
            tokens=tokens,
            squared_lengths=tokens * length,
            head_rows=head_rows,
            teacher_head_rows=head_rows,
        )
        copies = (*snapshot.weights.values(), *snapshot.moments.values())
        assert all(tensor.device.type == "cpu" for tensor in copies)
        return finished(trace, tokens, flops, compiled, sum(tensor.nbytes for tensor in copies))


def trace_masked_lm(rows: int, length: int) -> StepTrace:
    """Trace a micro-step of masked language modeling with BERT base in bf16, computing the logits of all tokens."""
    _, model = meta_models(ModelShapeConfig(), distill_config())
    with fake_cuda():
        trace = OperationTrace("cuda")
        model = model.to(CUDA).train()
        model.tie_weights()
        model.set_attn_implementation("eager")
        track(trace, model)
        ids = torch.ones((rows, length), dtype=torch.int64, device=CUDA)
        with trace:
            with torch.autocast("cuda", torch.bfloat16):
                logits = model(ids, attention_mask=torch.ones_like(ids)).logits
                loss = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
            loss.backward()
        tokens, size = rows * length, model_size(model)
        flops = step_flops(size, teacher=None, tokens=tokens, squared_lengths=tokens * length, head_rows=tokens)
        return finished(trace, tokens, flops)


def finished(
    trace: OperationTrace, tokens: int, model_flops: int, compiled: tuple[str, ...] = (), snapshot_bytes: int = 0
) -> StepTrace:
    encoders = {STUDENT, TEACHER} & set(compiled)
    return StepTrace(
        tokens=tokens,
        model_flops=model_flops,
        operations=list(fuse(trace.operations, trace.live_storages, encoders)),
        synchronizations=Counter(trace.synchronizations),
        host_operations=Counter(trace.host_operations),
        peak_bytes=trace.peak_bytes,
        snapshot_bytes=snapshot_bytes,
    )


def track(trace: OperationTrace, model: nn.Module) -> None:
    """Count the memory of a model that was created before the trace."""
    for tensor in (*model.parameters(), *model.buffers()):
        trace.number(tensor)


def create_updater(model: nn.Module, config: OptimizerConfig, *, uses_fp16: bool) -> Updater:
    optimizer = create_optimizer(model, config)
    return Updater(model, optimizer, lambda _: 1.0, max_grad_norm=config.max_grad_norm, uses_fp16=uses_fp16)


def create_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Create the gradients and moments, as the first step of a run does."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


@contextlib.contextmanager
def labeled_loss(trace: OperationTrace) -> Iterator[None]:
    """Label both passes of the vocabulary loss, and count its compiled function as a kernel that reads logits twice."""

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        trace.component = VOCABULARY_LOSS
        loss, sums = vocabulary_loss.vocabulary_loss(hidden, *args, **kwargs)
        trace.component = HEAD
        hidden.register_hook(partial(switch, trace, HEAD))
        loss.register_hook(partial(switch, trace, VOCABULARY_LOSS))
        return loss, sums

    def run_fused(student: StudentLogits, teacher: Tensor | None, *args: Any) -> Any:
        inputs = [*student.parts, *([] if teacher is None else [teacher])]
        return trace.run_fused(fused_vocabulary_terms, (student, teacher, *args), inputs=inputs, passes=2)

    with (
        mock.patch.object(objective, "vocabulary_loss", run),
        mock.patch.object(vocabulary_loss, "fused_vocabulary_terms", run_fused),
    ):
        yield


def label_encoder(trace: OperationTrace, encoder: nn.Module, component: str) -> None:
    """Label the forward and backward passes of an encoder."""

    def leave(_module: nn.Module, _inputs: Any, output: Any) -> None:
        trace.component = HEAD
        if output.last_hidden_state.requires_grad:
            output.last_hidden_state.register_hook(partial(switch, trace, component))

    encoder.register_forward_pre_hook(partial(switch, trace, component))
    encoder.register_forward_hook(leave)


def switch(trace: OperationTrace, component: str, *_: Any) -> None:
    trace.component = component


def example_batch(rows: int, length: int) -> Batch:
    """Return a batch without padding, with 15% of the tokens masked."""
    ids = np.ones((rows, length), np.int64)
    positions = np.arange(round(MASK_SHARE * ids.size), dtype=np.int64)
    return Batch(ids, ids, ids, positions, positions)


def micro_batches(batch: Batch, count: int) -> Iterator[MicroStep]:
    tokens, masked = np.full(len(batch.input_ids), batch.input_ids.shape[1]), np.array([len(batch.mask_index)])
    size = StepSize(count * batch.tokens, count * len(batch.mask_index), int(np.square(tokens).sum()), batch.tokens)
    divisors = loss_divisors(tokens, masked)
    while True:
        for number in range(count):
            yield MicroStep(number, number == count - 1, TensorBatch.of(batch), divisors, size, np.arange(len(tokens)))
