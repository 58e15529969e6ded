"""What a checkpoint costs a training run: the copy on the host, and the steps that are slower while it is written.

PYTHONPATH=platform:. python benchmarks/checkpointing.py [--examples 8] [--length 128] [--every 100]

A student of DistilBERT's size under a teacher of BERT base's, one micro-batch of random ids a step, AdamW. Steps are
timed without a checkpoint, then while one is written to a temporary folder. The cost is the seconds that the copy and
the slower steps take, over those of the steps between two checkpoints.
"""

import argparse
import statistics
import tempfile
import time

import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.distillation import batches
from distilray.config.distillation import LossConfig, OptimizerConfig
from distilray.distillation.objective import DistillationStep, StepCounts, TensorBatch
from distilray.models.precision import preferred_dtype
from distilray.models.student import create_student
from distilray.pretraining_data.sample_plan import PlanState
from distilray.training.checkpoint import CheckpointStore, Snapshot, TrainingState
from distilray.training.optimizer import create_optimizer

CPU = torch.device("cpu")


class Run:
    """A model, and the steps that are timed."""

    def __init__(self, examples: int, length: int) -> None:
        dtype = preferred_dtype(CPU)
        teacher = BertForMaskedLM(BertConfig()).eval().requires_grad_(False)
        self.model = create_student(teacher)[0].train()
        for model in (teacher, self.model):
            model.set_attn_implementation("eager")
        self._step = DistillationStep(self.model, teacher.to(dtype), LossConfig(), dtype)
        self.optimizer = create_optimizer(self.model, OptimizerConfig())
        (self._batch,) = batches(examples, length, teacher.config.vocab_size, 1)

    def seconds(self) -> float:
        """Of one step."""
        started = time.perf_counter()
        batch: TensorBatch = self._batch
        loss, _ = self._step(batch, StepCounts(int(batch.attention_mask.sum()), len(batch.mask_index)))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started


def main() -> None:
    """Prints the seconds and the share."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    given = parser.parse_args()
    run = Run(given.examples, given.length)
    run.seconds()
    plain = statistics.median(run.seconds() for _ in range(7))
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(folder, keep=1, config_hash="-", notice=print)
        started = time.perf_counter()
        store.save(Snapshot.of(run.model, run.optimizer, TrainingState(1, PlanState(0, 1), "-"), "{}"))
        copied = time.perf_counter() - started
        slower = []
        while not store.is_idle:
            slower.append(run.seconds() - plain)
        store.wait()
    cost = (copied + sum(slower)) / (given.every * plain)
    print(
        f"step {plain:.2f} s; copy {copied:.2f} s, {len(slower)} steps slower by {sum(slower):.2f} s in all: "
        f"{cost:.2%} with a checkpoint every {given.every} steps"
    )


if __name__ == "__main__":
    main()
