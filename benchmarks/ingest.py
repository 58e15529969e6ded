"""Speed of batch creation from shards compared to the training step.

    make bench ingest
    PYTHONPATH=platform:. python -m benchmarks.ingest [CORPUS_DIR] [--copies N]

Encodes a corpus (a run folder of `jobs.build_corpus`, such as that of the quickstart) with 128 and 512 tokens, and with
static and dynamic masks. One thread then creates the batches of many optimizer steps, including sample plan and
padding. Compares tokens per CPU second (best of several passes) with the tokens per second of forward and backward
passes on all cores, with the warm-start encoder as both student and teacher.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.distillation import LossConfig
from distilray.config.sample import resolve_sample
from distilray.distillation.objective import DistillationLoss, LossDivisors, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.models.precision import compute_dtype
from distilray.pretraining_data.batches import Batch, collate, padded_width
from distilray.pretraining_data.sample_plan import SamplePlan, micro_batches
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import RunFolder
from tests.tiny.shards import encode_config, encode_in_process

ENCODER = "sample:encoder"
MASKS = {"static": {}, "dynamic": {"dynamic": True, "rare_token_exponent": 0.7}}
BATCH, MICRO_BATCH, PASSES = 2000, 32, 5


def encode(folder: Path, corpus_dir: str, length: int, masking: dict[str, object], copies: int) -> ShardSet:
    """Encode a corpus and return its train split."""
    values = {"corpus_dir": corpus_dir, "tokenizer_dir": ENCODER, "max_seq_length": length, "heldout_fraction": 0.05}
    config = encode_config(str(folder), **values, dupe_factor=copies, rows_per_shard=5000, masking=masking)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    outcome = encode_in_process(config, run)
    run.finish(outcome.counts, outcome.outputs, outcome.summary)
    return ShardSet(str(folder), "train")


def create_batches(shards: ShardSet, steps: int) -> tuple[float, float, Batch]:
    """Return tokens per CPU second, the fraction of padding, and the last batch."""
    plan = SamplePlan(shards.shard_rows, BATCH, seed=1)
    pad_id = vocabulary_of(read_tokenizer(resolve_sample(ENCODER))).pad
    best = 0.0
    for _ in range(PASSES):
        tokens = slots = 0
        start = time.process_time()
        for step in range(steps):
            planned = plan.step_rows(step)
            lengths = shards.lengths(planned.rows)
            shards.mask_counts(planned.rows, planned.epochs)
            for positions in micro_batches(padded_width(lengths), num_workers=1, micro_batch_size=MICRO_BATCH):
                batch = collate(shards, planned.take(positions), pad_id=pad_id)
                slots += len(positions) * padded_width(int(lengths[positions].max()))
            tokens += int(lengths.sum())
        best = max(best, tokens / (time.process_time() - start))
    return best, 1 - tokens / slots, batch


def training_rate(batch: Batch) -> float:
    """Return the tokens per second of forward and backward passes on all cores."""
    dtype = compute_dtype("auto", torch.device("cpu"))
    student, teacher = (load_masked_lm(resolve_sample(ENCODER), fresh_head=True) for _ in range(2))
    student.set_attn_implementation("eager")
    step = DistillationLoss(student.train(), teacher.to(dtype), LossConfig(), dtype)
    tensors, counts, best = TensorBatch.of(batch), LossDivisors(batch.tokens, len(batch.mask_index)), 0.0
    for _ in range(PASSES):
        start = time.perf_counter()
        step(tensors, counts)[0].backward()
        best = max(best, batch.tokens / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus_dir", nargs="?", help="run of build_corpus (default: that of the quickstart)")
    parser.add_argument("--copies", type=int, default=3, help="examples with other masks and pairs per text")
    args = parser.parse_args()
    corpus_dir, results = args.corpus_dir or quickstart_run("corpus"), []
    variants = [(length, name) for length in (128, 512) for name in MASKS]
    with Progress("ingest", total=len(variants), unit="variants") as progress:
        for done, (length, name) in enumerate(variants, 1):
            with tempfile.TemporaryDirectory() as folder:
                shards = encode(Path(folder) / "run", corpus_dir, length, MASKS[name], args.copies)
                rate, padding, batch = create_batches(shards, steps=max(1, 2 * len(shards) // BATCH))
                training = training_rate(batch)
            what = f"{length} tokens, {name} masks"
            results += [
                Result(what, rate / 1e6, "M tokens per CPU second", ">= 1", "the training step", training / 1e6),
                Result(f"{what}: padding", 100 * padding, "%", "<= 3", "no padding"),
            ]
            progress.advance_to(done)
    print(table(results), flush=True)


if __name__ == "__main__":
    main()
