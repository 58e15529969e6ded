"""Training in one process or in several of a gloo group, without Ray: `python worker_group.py` with its arguments.

Each worker records its random state at every forward pass in training, and its weights at the end. The first one writes
the files of the run, as with Ray.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import train_loop
from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.pretraining_data.tokenizer import read_tokenizer
from distilray.training import process_group
from distilray.training.optimizer import Updater
from distilray.training.process_group import Workers
from tests.tiny.tasks import classifier, features, settings

STEPS = 2
VALUES = {
    "run_dir": "unused",
    "batch_size": 16,
    "micro_batch_size": 4,
    "precision": "fp32",
    "max_steps": STEPS,
    "optimizer": {"learning_rate": 5e-3, "warmup_fraction": 0.0},
    "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
    # Preemption notices are only available to workers of Ray Train.
    "intervals": {"log_every_steps": 1, "poll_preemption_every_steps": STEPS + 1},
}


def record_states(model: Any, states: list[str]) -> Any:
    """Record the random state of torch at the start of each training forward pass."""

    def record(*_: object) -> None:
        if model.training:
            states.append(hash_of(torch.get_rng_state()))

    model.base_model.register_forward_pre_hook(record)
    return model


def hash_of(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def distill(folder: Path, values: dict[str, Any], states: list[str]) -> tuple[nn.Module, object]:
    """Distill a student; returns it and nothing else."""
    students: list[Any] = []

    def create(config: DistillConfig) -> Any:
        student, teacher = create_student_and_teacher(config)
        students.append(record_states(student, states))
        return student, teacher

    config = DistillConfig.model_validate({**VALUES, **values})
    tokenizer_json, cache = read_tokenizer(config.teacher_dir), config.teacher_cache_dir
    train_loop(LoopSettings(config, config.losses, create, tokenizer_json, STEPS, str(folder), cache))
    return students[0], None


def fine_tune_classifier(model_dir: str, dropout: float, states: list[str]) -> tuple[nn.Module, object]:
    """Fine-tune on CoLA; returns the model and the loss of each evaluation."""
    model = record_states(classifier("cola", model_dir, dropout=dropout), states)
    # An epoch has two batches of 7 examples and one of a single example, which two workers cannot share.
    values = settings(batch_size=7, evaluations_per_epoch=2, epochs=1, dropout=dropout)
    rows, workers = features("cola", model_dir), Workers.from_process_group()
    cpu = torch.device("cpu")
    result = fine_tune(ClassifierTraining(model, rows, values, 1, cpu, torch.float32, workers), folder=None)
    return model, [evaluation.train_loss for evaluation in result.evaluations]


def train(rank: int, size: int, folder: Path, values: dict[str, Any]) -> None:
    join(rank, size, folder)
    jobs = {
        "distillation": functools.partial(distill, folder, values),
        "fine_tuning": functools.partial(fine_tune_classifier, values["teacher_dir"], values["dropout"]),
    }
    record = {"text": Workers.from_process_group().broadcast(f"from rank {rank}")}
    for name, run in jobs.items():
        states: list[str] = []
        model, losses = run(states)
        save_file({key: value.detach() for key, value in model.named_parameters()}, folder / f"{name}-{rank}.weights")
        record[name] = {"states": states, "losses": losses}
    (folder / f"{rank}.json").write_text(json.dumps(record))


class Crossed(nn.Module):
    """Its parameters get their gradients in another order than that in which they were defined."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size, size) for size in (7, 7, 7, 7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index in (2, 0, 3, 1):
            x = self.layers[index](x).tanh()
        return x.square().sum()


class SmallBuckets(DistributedDataParallel):
    """DDP with a bucket for almost every parameter."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, bucket_cap_mb=1e-4, **options)


def sum_gradients(rank: int, size: int, folder: Path) -> None:
    """Run the same step of two micro-steps three times, and record the gradients and whether they stay in memory."""
    join(rank, size, folder)
    torch.manual_seed(1)
    process_group.DistributedDataParallel = SmallBuckets
    workers, model = Workers.from_process_group(), Crossed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    updater = Updater(model, optimizer, lambda step: 0.0, max_grad_norm=1e9, keeps_gradients=True)
    for group in optimizer.param_groups:
        group["peak_lr"] = 0.0
    module = workers.wrap(model, torch.device("cpu"))
    x, hashes, addresses = torch.randn(5, 7, generator=torch.Generator().manual_seed(rank)), [], []
    for step in range(3):
        for factor in (1.0, 0.5):
            with workers.gradient_sync(module, enabled=factor == 0.5):
                module(factor * x).backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        hashes.append(hash_of(torch.cat([gradient.flatten() for gradient in gradients])))
        addresses.append([gradient.data_ptr() for gradient in gradients])
        updater.update(step, float(updater.clip_gradients()))
    buckets = len(module.reducer._get_zeros_like_grad_buckets())
    (folder / f"{rank}.json").write_text(json.dumps({"hashes": hashes, "addresses": addresses, "buckets": buckets}))


def join(rank: int, size: int, folder: Path) -> None:
    """Join the group. It is never destroyed, which can deadlock while gloo completes the last operation."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)


if __name__ == "__main__":
    for function, size, folder, *arguments in json.loads(sys.argv[1]):
        Path(folder).mkdir()
        torch.multiprocessing.start_processes(
            globals()[function], (size, Path(folder), *arguments), nprocs=size, start_method="fork"
        )
