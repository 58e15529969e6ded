"""Training in one process or in several of a gloo group, without Ray: `python worker_group.py` with its arguments.

Each worker records its random state at every forward pass of the model that is trained, its weights at the end, and
its share of the work; the first one writes the files of the run, as with Ray.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed

from distilray.config.distillation import DistillConfig
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import train_loop
from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.pretraining_data.tokenizer import read_tokenizer
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


def watched(model: Any, states: list[str]) -> Any:
    """Return the model, which records the random state of torch at the start of each training forward pass."""

    def note(*_: object) -> None:
        if model.training:
            states.append(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())

    model.base_model.register_forward_pre_hook(note)
    return model


def distil(folder: Path, values: dict[str, Any], states: list[str]) -> Any:
    kept: list[Any] = []

    def create(config: DistillConfig) -> Any:
        student, teacher = create_student_and_teacher(config)
        kept.append(watched(student, states))
        return student, teacher

    config = DistillConfig.model_validate({**VALUES, **values})
    run = LoopSettings(config, config.losses, create, read_tokenizer(config.teacher_dir), STEPS, str(folder))
    train_loop(run)
    return kept[0]


def fine_tune_together(model_dir: str, dropout: float, states: list[str]) -> Any:
    model = watched(classifier("cola", model_dir, dropout=dropout), states)
    values = settings(batch_size=4, epochs=1, dropout=dropout)
    rows, workers = features("cola", model_dir, train=8), Workers.from_process_group()
    fine_tune(ClassifierTraining(model, rows, values, 1, torch.device("cpu"), torch.float32, workers), folder=None)
    return model


def work(rank: int, size: int, folder: Path, values: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    states: dict[str, list[str]] = {"distillation": [], "fine_tuning": []}
    models = {
        "distillation": distil(folder, values, states["distillation"]),
        "fine_tuning": fine_tune_together(values["teacher_dir"], values["dropout"], states["fine_tuning"]),
    }
    for name, model in models.items():
        save_file({key: value.detach() for key, value in model.named_parameters()}, folder / f"{name}-{rank}.weights")
    (folder / f"{rank}.json").write_text(json.dumps(states))
    distributed.destroy_process_group()


if __name__ == "__main__":
    for size, folder, values in json.loads(sys.argv[1]):
        Path(folder).mkdir()
        torch.multiprocessing.start_processes(work, (size, Path(folder), values), nprocs=size, start_method="fork")
