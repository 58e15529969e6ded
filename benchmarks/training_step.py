"""Effect of three optimizations of the training step on a CPU.

    make bench training_step
    PYTHONPATH=platform:. python -m benchmarks.training_step [SHARDS_DIR]

Reads shards of the quickstart (its tokenizer, 128 tokens). Compares the median duration of forward and backward passes
of the quickstart's encoder on 16 examples: (a) masked LM alone with eager or fused attention, (b) with the distillation
loss at masked positions or at all positions, (c) with freed memory kept by the process or returned to the system. They
run in a thread, like the training loop of a Ray Train worker, because glibc returns more memory there than in the main
thread.
"""

import argparse
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.distillation import LossConfig
from distilray.config.sample import resolve_sample
from distilray.distillation.objective import MASKED_LM_ONLY, DistillationLoss, TensorBatch
from distilray.models.masked_lm import load_masked_lm
from distilray.models.precision import compute_dtype
from distilray.models.processor import configure_cpu
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime.progress import Progress
from tests.tiny.shards import planned, step_counts

EXAMPLES, REPEATS = 16, 7
CPU = torch.device("cpu")


def seconds(shards: ShardSet, losses: LossConfig, attention: str) -> float:
    model = load_masked_lm(resolve_sample("sample:encoder"), fresh_head=True)
    model.set_attn_implementation(attention)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    dtype = compute_dtype("auto", CPU)
    teacher = load_masked_lm(resolve_sample("sample:encoder"), fresh_head=True).to(dtype) if losses.alpha_ce else None
    step = DistillationLoss(model, teacher, losses, dtype)
    rows = np.arange(EXAMPLES)
    batch = TensorBatch.of(collate(shards, planned(rows), pad_id=0))
    counts = step_counts(shards, rows)
    durations = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        step(batch, counts)[0].backward()
        durations.append(time.perf_counter() - start)
        model.zero_grad()
    return statistics.median(durations[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shards_dir", nargs="?", help="run of encode_corpus (default: that of the quickstart)")
    shards = ShardSet(parser.parse_args().shards_dir or quickstart_run("shards"), "train")
    masked_only, all_positions = LossConfig(ce_positions="masked"), LossConfig(ce_positions="all")
    with ThreadPoolExecutor(1) as thread, Progress("training_step", total=6, unit="variants") as progress:
        done = 0

        def measure(losses: LossConfig, attention: str = "eager") -> float:
            nonlocal done
            result = thread.submit(seconds, shards, losses, attention).result()
            progress.advance_to(done := done + 1)
            return result

        returned = [measure(losses) for losses in (all_positions, masked_only)]
        configure_cpu(torch.get_num_threads())
        fused, eager = (measure(MASKED_LM_ONLY, attention) for attention in ("sdpa", "eager"))
        everywhere, masked = (measure(losses) for losses in (all_positions, masked_only))
    results = [
        Result("step with eager attention", eager, "s", "", "fused attention", fused),
        Result("distillation loss at masked positions", masked, "s", "", "at all positions", everywhere),
        Result("freed memory kept, masked positions", masked, "s", "", "returned", returned[1]),
        Result("freed memory kept, all positions", everywhere, "s", "", "returned", returned[0]),
    ]
    print(table(results))


if __name__ == "__main__":
    main()
