"""Script for the processes of a process group, which fine-tune on CoLA together."""

import json
from pathlib import Path

import torch
from torch import distributed

from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.training.process_group import Workers
from tests.tiny.tasks import classifier, features, settings

ROWS_LEFT = settings(batch_size=7, evaluations_per_epoch=2, dropout=0.0)  # an epoch has two batches of 7 and one of 1


def train(model_dir: str, workers: Workers) -> dict[str, object]:
    """Return losses and scores of each evaluation, and a checksum of the final weights."""
    model = classifier("cola", model_dir, dropout=0.0)
    rows, cpu = features("cola", model_dir), torch.device("cpu")
    found = fine_tune(ClassifierTraining(model, rows, ROWS_LEFT, 1, cpu, torch.float32, workers), folder=None)
    weights = sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())
    return {"losses": [one.train_loss for one in found.evaluations], "best": found.best.number, "weights": weights}


def run(rank: int, size: int, model_dir: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    workers = Workers.from_process_group()
    told = workers.broadcast("the first says this" if workers.rank == 0 else "other")
    found = {"rank": workers.rank, "told": told, **train(model_dir, workers)}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
