"""Overhead of checkpoints in training: the copy in memory, and the steps that are slower while files are written.

    make bench checkpointing
    PYTHONPATH=platform:. python -m benchmarks.checkpointing [--examples 8] [--length 128] [--every 100]

Trains a student of DistilBERT's size with a teacher of the size of BERT base, on one micro-batch of random ids per
step, with AdamW. Measures the duration of a step without a checkpoint, and while one is written to a temporary folder.
The overhead is the time of the copy and the additional time of the slower steps, divided by the time between two
checkpoints.
"""

import argparse
import statistics
import tempfile
import time

import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.distillation import batches
from benchmarks.results import Result, table
from distilray.config.distillation import LossConfig, OptimizerConfig
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.models.precision import compute_dtype
from distilray.models.student import create_student
from distilray.pretraining_data.sample_plan import PlanState
from distilray.runtime.progress import Progress
from distilray.training.checkpoint import CheckpointStore, Snapshot, TrainingState
from distilray.training.optimizer import create_optimizer

CPU = torch.device("cpu")
STEPS = 7


class Run:
    """Model with a training step to measure."""

    def __init__(self, examples: int, length: int) -> None:
        dtype = compute_dtype("auto", CPU)
        teacher = BertForMaskedLM(BertConfig()).eval().requires_grad_(False)
        self.model = create_student(teacher)[0].train()
        for model in (teacher, self.model):
            model.set_attn_implementation("eager")
        self._losses = DistillationLoss(self.model, teacher.to(dtype), LossConfig(), dtype)
        self.optimizer = create_optimizer(self.model, OptimizerConfig())
        (self._batch,) = batches(examples, length, teacher.config.vocab_size, 1)

    def step(self) -> float:
        """Run one step and return its duration in seconds."""
        start = time.perf_counter()
        batch: TensorBatch = self._batch
        loss, _ = self._losses(batch, LossDivisors(int(batch.attention_mask.sum()), len(batch.mask_index)))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    args = parser.parse_args()
    with Progress("checkpointing", total=None, unit="steps") as progress:
        run = Run(args.examples, args.length)
        steps = [run.step()]  # a warm-up
        for _ in range(STEPS):
            steps.append(run.step())
            progress.advance_to(len(steps))
        step_s = statistics.median(steps[1:])
        with tempfile.TemporaryDirectory() as folder:
            store = CheckpointStore(folder, keep=1, config_hash="-", notice=print)
            start = time.perf_counter()
            store.save(Snapshot.of(run.model, run.optimizer, TrainingState(1, PlanState(0, 1), "-"), "{}"))
            copy_s = time.perf_counter() - start
            writing = []
            while not store.is_idle:
                writing.append(run.step())
                progress.advance_to(len(steps) + len(writing), "while a checkpoint is written")
            store.wait()
    slower_s = sum(writing) - len(writing) * step_s
    overhead = (copy_s + slower_s) / (args.every * step_s)
    results = [
        Result("copy in memory", copy_s, "s", peer="a step", reference=step_s),
        Result(
            f"{len(writing)} steps while files are written", sum(writing), "s", "", "without", len(writing) * step_s
        ),
        Result(f"overhead, a checkpoint every {args.every} steps", 100 * overhead, "%", "<= 2", "no checkpoints"),
    ]
    print(table(results))


if __name__ == "__main__":
    main()
