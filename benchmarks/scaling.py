"""Accuracy of the capacity model: predicted and measured training speed of 2 and 4 workers, from a run with one.

    make bench scaling
    PYTHONPATH=platform:. python -m benchmarks.scaling [SHARDS_DIR] [--steps 24] [--batch-size 32]

Reads shards of the quickstart (its tokenizer, 128 tokens). Distills a BERT with 4 layers of size 256 and random weights
into a student with half of its layers, using `jobs.distill` with Ray Train, gloo and single-threaded CPU workers: one,
two, four, and one worker again. The prediction is that of `jobs.plan` with `estimate.measured_run_dir`: it uses the
tokens/s of one worker, the number of cores, which additional workers must share, and the values of its table. Predicts
twice: with the nominal number of cores, and with the number of cores that two processes effectively get (measured with
matrix products), because other virtual machines use some of them.
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

from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.distillation import DistillConfig
from distilray.config.plan import PlanConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.models.masked_lm import save_model
from distilray.operations.plan.machines import MACHINES
from distilray.operations.plan.simulation import training_runs
from distilray.operations.plan.workload import estimate_examples, estimate_training
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime.progress import Progress

LAYERS, DIM, HEADS, HIDDEN = 4, 256, 4, 1024
ORDER = (1, 2, 4, 1)
SKIPPED_ROWS = 1  # of metrics.jsonl: the first steps warm up


def write_teacher(folder: Path, shards_dir: str) -> int:
    """Write a BERT with random weights, and return its vocabulary size."""
    tokenizer_json = read_tokenizer(shards_dir)
    vocabulary = vocabulary_of(tokenizer_json).size
    torch.manual_seed(1)
    shape = {"hidden_size": DIM, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": HIDDEN}
    folder.mkdir()
    save_model(BertForMaskedLM(BertConfig(vocab_size=vocabulary, **shape)), folder, tokenizer_json)
    return vocabulary


def recipe(args: argparse.Namespace, folder: Path, name: str, workers: int) -> dict[str, object]:
    return {
        "run_dir": str(folder / name),
        "shards_dir": args.shards_dir,
        "teacher_dir": str(folder / "teacher"),
        "max_steps": args.steps,
        "batch_size": args.batch_size,
        "micro_batch_size": args.micro_batch_size,
        "losses": {"ce_positions": "masked"},
        "scaling": {"num_workers": workers, "use_gpu": False, "cpus_per_worker": 1},
        "intervals": {"log_every_steps": 4, "heldout_examples": 16, "checkpoint_every_steps": 1000},
        "ray": {"num_cpus": max(ORDER) + 1},  # allow more workers than cores
    }


def measure(args: argparse.Namespace, folder: Path, name: str, workers: int) -> float:
    """Run a training job, and return the tokens per second of all workers (median over the rows of its metrics)."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe(args, folder, name, workers)))
    command = [sys.executable, "-m", "jobs.distill", "--recipe", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    metrics = folder / name / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()][SKIPPED_ROWS:]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))  # `jobs.plan` computes the rate from these rows
    return statistics.median(row["tokens_per_s"] for row in rows)


def products(_: int) -> float:
    """Return the matrix products per second of one thread, measured for two seconds."""
    torch.set_num_threads(1)
    left, count, start = torch.randn(512, 512), 0, time.perf_counter()
    while time.perf_counter() - start < 2:
        torch.mm(left, left)
        count += 1
    return count / (time.perf_counter() - start)


def effective_cores() -> float:
    """Return the throughput of two processes relative to one."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(products, range(2)))  # start both processes
        alone = statistics.median(pool.submit(products, 0).result() for _ in range(3))
        both = statistics.median(sum(pool.map(products, range(2))) for _ in range(3))
    return both / alone


def predict(args: argparse.Namespace, folder: Path, vocabulary: int, rate: float, cores: float) -> dict[int, float]:
    """Return the prediction of `jobs.plan` by number of workers, from the tokens per second of one."""
    shards = ShardSet(args.shards_dir, "train")
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
    training = estimate_training(examples, DistillConfig.model_validate(recipe(args, folder, "plan", 1)), plan.teacher)
    whole = os.cpu_count() or 1
    machine = dataclasses.replace(MACHINES["two-cores"], num_devices=whole, cores=whole)
    runs = training_runs(plan, training, sorted(set(ORDER)), machine, cores=cores)
    return {run.workers: run.tokens_per_s for run in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shards_dir", nargs="?", help="run of encode_corpus (default: that of the quickstart)")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    args = parser.parse_args()
    args.shards_dir = str(Path(args.shards_dir or quickstart_run("shards")).absolute())
    rates: dict[int, list[float]] = {workers: [] for workers in ORDER}
    with tempfile.TemporaryDirectory() as name, Progress("scaling", total=len(ORDER), unit="runs") as progress:
        folder = Path(name)
        vocabulary = write_teacher(folder / "teacher", args.shards_dir)
        effective = effective_cores()
        for number, workers in enumerate(ORDER):
            progress.advance_to(number, f"{workers} workers, load {os.getloadavg()[0]:.1f}")
            rates[workers].append(measure(args, folder, f"run-{number}", workers))
        measured = {workers: statistics.mean(values) for workers, values in rates.items()}
        nominal, probed = (
            predict(args, folder, vocabulary, measured[1], cores) for cores in (float(os.cpu_count() or 1), effective)
        )
    results = [
        Result("cores that two processes effectively get", effective, "", "", "cores", float(os.cpu_count() or 1))
    ]
    for workers in sorted(set(ORDER) - {1}):
        rate = measured[workers]
        results += [
            Result(f"{workers} workers", rate, "tokens/s", "", "one worker", measured[1]),
            Result(f"{workers} workers, predicted", nominal[workers], "tokens/s", "", "measured", rate),
            Result(
                f"{workers} workers, predicted with effective cores", probed[workers], "tokens/s", "", "measured", rate
            ),
        ]
    print(table(results))


if __name__ == "__main__":
    main()
