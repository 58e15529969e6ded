"""The capacity model against real training: what it says of 2 and 4 workers, from a run of one, and what they do.

PYTHONPATH=platform:. python benchmarks/scaling.py SHARDS_DIR [--steps 24] [--batch-size 32]

Reads shards of the quickstart (its tokenizer, 128 tokens). A BERT of 4 layers of 256 with random weights teaches its
half, by `jobs.distill` with Ray Train and gloo, on CPU workers of one thread each: one, two, four and one worker again.
The prediction is that of `jobs.plan` with `estimate.measured_run_dir`: one worker's tokens/s, this machine's cores,
which workers beyond them share, and its table for everything else. Two columns: with the cores that the machine says it
has, and with those that two processes get of it (matrix products, alone and at once), for its neighbours take some.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import yaml
from transformers import BertConfig, BertForMaskedLM

from distilray.config.capacity import PlanConfig
from distilray.config.distillation import DistillConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.models.masked_lm import save_model
from distilray.operations.plan.machines import MACHINES
from distilray.operations.plan.simulation import training_runs
from distilray.operations.plan.workload import estimate_examples, estimate_training
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of

LAYERS, DIM, HEADS, HIDDEN = 4, 256, 4, 1024
ORDER = (1, 2, 4, 1)
SKIPPED_ROWS = 1  # of metrics.jsonl: the first steps warm up


def write_teacher(folder: Path, shards_dir: str) -> int:
    """A BERT with random weights; returns the size of its vocabulary."""
    tokenizer_json = read_tokenizer(shards_dir)
    vocabulary = vocabulary_of(tokenizer_json).size
    torch.manual_seed(1)
    shape = {"hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": HIDDEN}
    folder.mkdir()
    save_model(BertForMaskedLM(BertConfig(vocab_size=vocabulary, **shape)), folder, tokenizer_json)
    return vocabulary


def recipe(given: argparse.Namespace, folder: Path, name: str, workers: int) -> dict[str, object]:
    return {
        "run_dir": str(folder / name),
        "shards_dir": given.shards_dir,
        "teacher_dir": str(folder / "teacher"),
        "max_steps": given.steps,
        "batch_size": given.batch_size,
        "micro_batch_size": given.micro_batch_size,
        "losses": {"ce_positions": "masked"},
        "scaling": {"num_workers": workers, "use_gpu": False, "cpus_per_worker": 1},
        "intervals": {"log_every_steps": 4, "heldout_examples": 16, "checkpoint_every_steps": 1000},
        "ray": {"num_cpus": max(ORDER) + 1},  # Ray may place more workers than there are cores
    }


def measured(given: argparse.Namespace, folder: Path, name: str, workers: int) -> float:
    """Tokens per second of a run by all of its workers: median of its rows."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe(given, folder, name, workers)))
    started = time.perf_counter()
    command = [sys.executable, "-m", "jobs.distill", "--recipe", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    metrics = folder / name / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()][SKIPPED_ROWS:]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))  # what the plan measures its rate by
    rate = statistics.median(row["tokens_per_s"] for row in rows)
    spread = min(row["tokens_per_s"] for row in rows), max(row["tokens_per_s"] for row in rows)
    print(
        f"{workers} worker(s): {rate:,.0f} tokens/s (rows {spread[0]:,.0f} to {spread[1]:,.0f}), "
        f"{time.perf_counter() - started:.0f} s, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return rate


def products(_: int) -> float:
    """Matrix products per second of one thread, over two seconds."""
    torch.set_num_threads(1)
    left, count, started = torch.randn(512, 512), 0, time.perf_counter()
    while time.perf_counter() - started < 2:
        torch.mm(left, left)
        count += 1
    return count / (time.perf_counter() - started)


def cores_of_two() -> float:
    """How many times the products of one process two of them make at once."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(products, range(2)))  # both are up
        alone = statistics.median(pool.submit(products, 0).result() for _ in range(3))
        both = statistics.median(sum(pool.map(products, range(2))) for _ in range(3))
    return both / alone


def predicted(given: argparse.Namespace, folder: Path, vocabulary: int, rate: float, cores: float) -> dict[int, float]:
    """Tokens per second by number of workers, as `jobs.plan` reckons them from one worker's."""
    shards = ShardSet(given.shards_dir, "train")
    encoding = EncodeCorpusConfig.model_validate(
        {"run_dir": "-", "corpus_dir": "-", "tokenizer_dir": "-", "max_seq_length": shards.max_seq_length}
    )
    stages = {name: {"path": "-"} for name in ("encode_corpus", "distill")}
    shape = {"layers": LAYERS, "dim": DIM, "heads": HEADS, "hidden_dim": HIDDEN, "vocabulary": vocabulary}
    plan = PlanConfig.model_validate(
        {
            "run_dir": "-",
            "stages": stages,
            "teacher": shape,
            "cluster": {"max_machines": 1},
            "estimate": {"tokens_per_s": rate},
        }
    )
    examples = dataclasses.replace(
        estimate_examples(plan.text, encoding), count=len(shards), heldout=0, mean_length=shards.tokens / len(shards)
    )
    training = estimate_training(examples, DistillConfig.model_validate(recipe(given, folder, "plan", 1)), plan.teacher)
    whole = os.cpu_count() or 1
    machine = dataclasses.replace(MACHINES["two-cores"], count=whole, cores=whole)
    runs = training_runs(plan, training, sorted(set(ORDER)), machine, cores=cores)
    return {run.workers: run.tokens_per_s for run in runs}


def main() -> None:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shards_dir", help="run folder of encode_corpus with the recipe of the quickstart")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    given = parser.parse_args()
    given.shards_dir = str(Path(given.shards_dir).absolute())
    with tempfile.TemporaryDirectory() as place:
        folder, rates = Path(place), {workers: [] for workers in ORDER}
        vocabulary = write_teacher(folder / "teacher", given.shards_dir)
        got = cores_of_two()
        print(f"load {os.getloadavg()[0]:.1f} before; two processes get {got:.2f} cores of {os.cpu_count()}")
        for number, workers in enumerate(ORDER):
            rates[workers].append(measured(given, folder, f"run-{number}", workers))
        found = {workers: statistics.mean(values) for workers, values in rates.items()}
        nominal, probed = (
            predicted(given, folder, vocabulary, found[1], cores) for cores in (float(os.cpu_count() or 1), got)
        )
    for workers in sorted(set(ORDER)):
        print(
            f"{workers} worker(s): measured {found[workers]:,.0f} tokens/s ({found[workers] / found[1]:.2f}x of one); "
            f"predicted {nominal[workers]:,.0f}, predicted/measured {nominal[workers] / found[workers]:.2f}; with the "
            f"cores that two processes get {probed[workers]:,.0f}, {probed[workers] / found[workers]:.2f}"
        )


if __name__ == "__main__":
    main()
