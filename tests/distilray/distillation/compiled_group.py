"""Compiled and eager steps of two workers of a gloo group: `python compiled_group.py` with its arguments."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from distilray.config.distillation import LossConfig
from distilray.distillation.compilation import compile_layers
from distilray.distillation.objective import DistillationLoss, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.batches import collate
from tests.distilray.training.worker_group import join
from tests.tiny.models import distant_student
from tests.tiny.shards import open_shards, planned, step_counts

BUCKET_MB = 0.02  # the student has 0.2 MB of parameters
LOSSES = LossConfig(alpha_values=3.0)


def module_of(teacher_dir, losses, *, compiled, recompute=False):
    """Return the loss module of a new student and teacher without dropout."""
    teacher = load_masked_lm(teacher_dir).requires_grad_(False)
    student = distant_student(teacher).train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if recompute:
        student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for model in (teacher, student):
        model.set_attn_implementation("eager")
        if compiled:
            compile_layers(model)
    return DistillationLoss(student, teacher, losses, compiled=compiled)


def compare(rank: int, size: int, teacher_dir: str, shards_dir: str, folder: Path) -> None:
    """Write the relative differences of the gradients of two steps."""
    join(rank, size, folder)
    torch.compile = functools.partial(torch.compile, backend="aot_eager")  # the code generator has its own tests
    shards = open_shards(shards_dir)
    modules = [
        DistributedDataParallel(
            module_of(teacher_dir, LOSSES, compiled=compiled, recompute=True),
            bucket_cap_mb=BUCKET_MB,
            gradient_as_bucket_view=True,
            find_unused_parameters=True,
        )
        for compiled in (False, True)
    ]
    differences = []
    for number in range(2):
        rows = np.arange(4 + number) + 10 * rank
        batch, counts = TensorBatch.of(collate(shards, planned(rows), pad_id=0)), step_counts(shards, rows)
        gradients = []
        for module in modules:
            module.zero_grad()
            module(batch, counts)[0].backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
        differences.append(float((gradients[1] - gradients[0]).norm() / gradients[0].norm()))
    record = {
        "differences": differences,
        "graph_breaks": sum(counters["graph_break"].values()),
        "buckets": len(modules[1]._get_ddp_logging_data()["bucket_sizes"].split(",")),
    }
    (folder / f"{rank}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    teacher_dir, shards_dir, folder = json.loads(sys.argv[1])
    torch.multiprocessing.start_processes(
        compare, (2, teacher_dir, shards_dir, Path(folder)), nprocs=2, start_method="spawn"
    )
