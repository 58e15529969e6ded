"""How fast batches are made from shards, against the training step that uses them.

PYTHONPATH=platform:. python benchmarks/ingest.py CORPUS_DIR [--copies N]

Encodes a corpus (a run folder of jobs.build_corpus, such as the quickstart's) with 128 and 512 tokens and with static
and dynamic masks. Then one thread makes the batches of many optimiser steps, plan and padding included; the figure is
tokens for each second of its CPU, the best of several passes. Beside it: the tokens per second of a forward and a
backward pass with all cores, warm-start encoder as student and teacher.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from distilray.config.distillation import LossConfig
from distilray.config.sample import resolve_sample
from distilray.distillation.objective import DistillationStep, StepCounts, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.models.precision import preferred_dtype
from distilray.pretraining_data.batches import Batch, collate, padded_width
from distilray.pretraining_data.sample_plan import SamplePlan, micro_batches
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime.run_folder import RunFolder
from tests.distilray.tiny_line import encode_config, encode_in_process

ENCODER = "sample:encoder"
MASKS = {"static": {}, "dynamic": {"dynamic": True, "rare_token_exponent": 0.7}}
BATCH, MICRO_BATCH, PASSES = 2000, 32, 5


def encoded(folder: Path, corpus_dir: str, length: int, masking: dict[str, object], copies: int) -> ShardSet:
    """The train split of a corpus."""
    values = {"corpus_dir": corpus_dir, "tokenizer_dir": ENCODER, "max_seq_length": length, "heldout_fraction": 0.05}
    config = encode_config(str(folder), **values, dupe_factor=copies, rows_per_shard=5000, masking=masking)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    outcome = encode_in_process(config, run)
    run.finish(outcome.counts, outcome.outputs, outcome.summary)
    return ShardSet(str(folder), "train")


def ingest(shards: ShardSet, steps: int) -> tuple[float, float, Batch]:
    """Tokens for each second of CPU, the share of padding, and the last batch."""
    plan = SamplePlan(shards.shard_rows, BATCH, seed=1)
    pad_id = vocabulary_of(read_tokenizer(resolve_sample(ENCODER))).pad
    best = 0.0
    for _ in range(PASSES):
        tokens = slots = 0
        started = time.process_time()
        for step in range(steps):
            planned = plan.step_rows(step)
            lengths = shards.lengths(planned.rows)
            shards.mask_counts(planned.rows, planned.epochs)
            for places in micro_batches(lengths, num_workers=1, micro_batch_size=MICRO_BATCH):
                batch = collate(shards, planned.take(places), pad_id=pad_id)
                slots += len(places) * padded_width(int(lengths[places].max()))
            tokens += int(lengths.sum())
        best = max(best, tokens / (time.process_time() - started))
    return best, 1 - tokens / slots, batch


def training(batch: Batch) -> float:
    """Tokens per second of forward and backward passes with all cores."""
    dtype = preferred_dtype(torch.device("cpu"))
    student, teacher = (load_masked_lm(resolve_sample(ENCODER), fresh_head=True) for _ in range(2))
    student.set_attn_implementation("eager")
    step = DistillationStep(student.train(), teacher.to(dtype), LossConfig(), dtype)
    tensors, counts, best = TensorBatch.of(batch), StepCounts(batch.tokens, len(batch.mask_index)), 0.0
    for _ in range(PASSES):
        started = time.perf_counter()
        step(tensors, counts)[0].backward()
        best = max(best, batch.tokens / (time.perf_counter() - started))
    return best


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus_dir")
    parser.add_argument("--copies", type=int, default=10)
    given = parser.parse_args()
    for length in (128, 512):
        for name, masking in MASKS.items():
            with tempfile.TemporaryDirectory() as folder:
                shards = encoded(Path(folder) / "run", given.corpus_dir, length, masking, given.copies)
                made, padding, batch = ingest(shards, steps=max(1, 2 * len(shards) // BATCH))
                used = training(batch)
            print(
                f"{length} tokens, {name} masks: {made / 1e6:.1f} M tokens for a second of CPU, {made / used:,.0f}x "
                f"the training step's {used:,.0f}; {padding:.1%} padding in steps of {BATCH:,} examples",
                flush=True,
            )


if __name__ == "__main__":
    main()
