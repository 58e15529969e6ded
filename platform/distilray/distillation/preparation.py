"""Settings, models and objective of a training worker, prepared for its device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distilray.config.distillation import LossConfig, TrainingConfig
from distilray.distillation.compilation import compile_layers, is_compiled
from distilray.distillation.feed import MicroStep
from distilray.distillation.teacher_cache import TeacherCache
from distilray.models.flops import ModelSize, step_flops
from distilray.models.processor import configure_cpu
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import tokenizer_hash
from distilray.runtime import storage
from distilray.training.meter import StepSize
from distilray.training.process_group import Workers


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the training loop, sent from the driver to every worker.

    Attributes:
        create_models: takes the config and returns the model to train and the frozen teacher, or None.
        run_uri: run folder.
        teacher_cache_dir: cached outputs of the teacher; None if the teacher runs, or if there is no teacher.
        on_cluster: True if workers may run on other nodes than the driver.
    """

    config: TrainingConfig
    losses: LossConfig
    create_models: Callable[[Any], tuple[Any, Any | None]]
    tokenizer_json: str
    total_steps: int
    run_uri: str
    teacher_cache_dir: str | None = None
    on_cluster: bool = False

    def path(self, *names: str) -> str:
        """Join names to the run folder."""
        return storage.join(self.run_uri, *names)

    def open_teacher_cache(self, shards: ShardSet) -> TeacherCache | None:
        """Open the teacher cache of some shards, if the run uses one."""
        if self.teacher_cache_dir is None:
            return None
        return TeacherCache(self.teacher_cache_dir, shards, self.losses, cache=ShardCache(self.config.cache))

    def open_shards(self, split: str) -> ShardSet:
        cache = ShardCache(self.config.cache)
        return ShardSet(self.config.shards_dir, split, tokenizer_hash=tokenizer_hash(self.tokenizer_json), cache=cache)


@dataclass(frozen=True)
class PretrainingObjective:
    """Objective of the training loop: computes the loss of a micro-batch.

    Attributes:
        module: a `DistillationLoss`, or DDP around one.
    """

    module: nn.Module
    seed: int
    workers: Workers
    device: torch.device

    def __call__(self, step: int, batch: MicroStep) -> tuple[Tensor, Mapping[str, Tensor]]:
        self.workers.seed_torch(self.seed, step, batch.number)
        loss, terms = self.module(batch.batch.to(self.device), batch.divisors)
        return loss, terms


def prepare_models(settings: LoopSettings, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any | None]:
    """Return the model to train, in train mode and fp32, and its frozen teacher in the dtype of the forward pass."""
    config = settings.config
    if device.type == "cpu":
        configure_cpu(config.scaling.cpus_per_worker)
    torch.manual_seed(config.seed)  # the same fresh head on every worker
    model, teacher = settings.create_models(config)
    if teacher is not None:
        teacher = _optimize_model(teacher.to(device, dtype).requires_grad_(False).eval(), config, device)
    model = model.to(device).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout) and config.dropout is not None:
            module.p = config.dropout
    if config.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return _optimize_model(model, config, device), teacher


def _optimize_model(model: Any, config: TrainingConfig, device: torch.device) -> Any:
    if device.type == "cpu":
        # On CPUs the backward pass of torch's fused attention is the slowest part of a step. With plain matrix products
        # the whole step is 1.1 to 1.3 times as fast (docs/benchmarks.md).
        model.set_attn_implementation("eager")
    if is_compiled(config):
        compile_layers(model)
    return model


def flops_per_step(size: StepSize, model: ModelSize, teacher: ModelSize | None, losses: LossConfig) -> int:
    """Return the FLOPs of an optimizer step of a given size, over all workers."""
    head_rows = size.tokens if losses.compared_positions == "all" else size.masked
    return step_flops(
        model,
        teacher=teacher,
        tokens=size.tokens,
        squared_lengths=size.pairs,
        head_rows=head_rows,
        teacher_head_rows=head_rows if losses.alpha_ce or losses.alpha_mse else 0,
    )
