"""Accuracy of the capacity model: predicted and measured training speed of 2 and 4 workers, from a run with one.

    make bench scaling
    PYTHONPATH=platform:. python -m benchmarks.scaling [SHARDS_DIR] [--steps 24] [--batch-size 32] [--causes]

Reads shards of the quickstart (its tokenizer, 128 tokens). Distills a BERT with 4 layers of size 256 and random weights
into a student with half of its layers, using `jobs.distill` with Ray Train, gloo and single-threaded CPU workers: one,
two, four, and one worker again. The prediction is that of `jobs.plan` with `estimate.measured_run_dir`: it uses the
tokens/s of one worker, the number of cores, which additional workers must share, and the values of its table. Predicts
twice: with the nominal number of cores, and with the number of cores that two processes effectively get (measured with
matrix products), because other virtual machines use some of them.

With `--causes`, shows instead where the speed of a second worker goes. The training loop runs in one and in two forked
processes without Ray, and each setup of two processes adds one cost to the one before. Then `jobs.distill` runs with
one and with two workers. All of them take turns, for `--rounds` rounds. The CPU time per token shows added work; what
only lowers the speed is waiting.
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

import torch
import yaml
from torch import distributed
from transformers import BertConfig, BertForMaskedLM

from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.distillation import DistillConfig
from distilray.config.plan import PlanConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.distillation.inputs import create_student_and_teacher
from distilray.distillation.preparation import LoopSettings
from distilray.distillation.setup import train_loop
from distilray.models.masked_lm import save_model
from distilray.operations.plan.machines import MACHINES
from distilray.operations.plan.simulation import training_runs
from distilray.operations.plan.workload import estimate_examples, estimate_training
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime.metrics import read_metrics
from distilray.runtime.progress import Progress
from distilray.runtime.run_folder import METRICS_FILE
from distilray.training.meter import Meter
from distilray.training.process_group import Workers

LAYERS, DIM, HEADS, HIDDEN = 4, 256, 4, 1024
ORDER = (1, 2, 4, 1)
SKIPPED_ROWS = 1  # of metrics.jsonl: the first steps warm up


@dataclasses.dataclass(frozen=True)
class Setup:
    """Processes that train without Ray.

    Attributes:
        divisor: a process trains on this part of the batch in each step.
        groups: number of gloo groups; without one there is no DDP.
    """

    label: str
    processes: int
    divisor: int = 1
    groups: int = 0


METER_ROW = Meter.row
ALONE = Setup("one process", 1)
SETUPS = (
    ALONE,
    Setup("two processes, each with whole steps", 2),
    Setup("two processes, each with half a step", 2, divisor=2),
    Setup("the same with DDP, in groups of one process", 2, divisor=2, groups=2),
    Setup("the same in one group, which averages gradients", 2, groups=1),
)


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
    return median_rate(folder / name)


def median_rate(run: Path) -> float:
    """Return the median over the rows of the metrics of a run."""
    rows = read_metrics(str(run / METRICS_FILE))
    return statistics.median(row["tokens_per_s"] for row in rows[SKIPPED_ROWS:])


def measure_setup(args: argparse.Namespace, folder: Path, name: str, setup: Setup) -> tuple[float, float]:
    """Train without Ray; return the tokens per second of all processes, and the CPU seconds per 1,000 tokens."""
    runs = [folder / f"{name}-{rank}" for rank in range(setup.processes)]
    for run in runs:
        run.mkdir()
    torch.multiprocessing.start_processes(
        train_in_process, (args, folder, name, setup), nprocs=setup.processes, start_method="fork"
    )
    measured = runs[:1] if setup.groups == 1 else runs  # the first process writes the metrics of the whole group
    rate, cpu = sum(map(median_rate, measured)), statistics.mean(map(cpu_seconds, measured))
    return rate, cpu * setup.processes / len(measured)


def cpu_seconds(run: Path) -> float:
    """Return the CPU seconds of a process per 1,000 tokens, including those of the other processes of its group."""
    rows = read_metrics(str(run / METRICS_FILE))
    return 1000 * (rows[-1]["cpu_s"] - rows[0]["cpu_s"]) / sum(row["tokens"] for row in rows[1:])


def row_with_cpu(meter: Meter, done: int) -> dict[str, float]:
    tokens = meter._tokens
    return {**METER_ROW(meter, done), "tokens": tokens, "cpu_s": time.process_time()}


def train_in_process(rank: int, args: argparse.Namespace, folder: Path, name: str, setup: Setup) -> None:
    """Train in one process of a setup."""
    values = {**recipe(args, folder, f"{name}-{rank}", 1), "batch_size": args.batch_size // setup.divisor}
    # Preemption notices are only available to workers of Ray Train.
    values["intervals"] |= {"poll_preemption_every_steps": args.steps + 1}
    config = DistillConfig.model_validate(values)
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(Meter, "row", row_with_cpu))
        if setup.groups:
            size = setup.processes // setup.groups
            meeting = f"file://{folder}/{name}-{rank // size}.meeting"
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
            distributed.init_process_group("gloo", init_method=meeting, rank=rank % size, world_size=size)
            if size == 1:  # `Workers` would do without DDP
                wrap, pretended = Workers.wrap, Workers(0, 2, torch.device("cpu"))
                stack.enter_context(patch.object(Workers, "wrap", lambda _, *inputs: wrap(pretended, *inputs)))
        tokenizer_json = read_tokenizer(config.teacher_dir)
        train_loop(
            LoopSettings(
                config, config.losses, create_student_and_teacher, tokenizer_json, args.steps, str(config.run_dir)
            )
        )


def causes(args: argparse.Namespace, folder: Path) -> list[Result]:
    """Compare the setups and both jobs with one process."""
    rates: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    jobs = {1: "jobs.distill with one worker", 2: "jobs.distill with two workers"}
    total = args.rounds * (len(SETUPS) + len(jobs))
    with Progress("scaling", total=total, unit="runs") as progress:
        for number in range(args.rounds):
            for setup in SETUPS:
                progress.advance_to(sum(map(len, rates.values())), setup.label)
                rate, seconds = measure_setup(args, folder, f"setup-{number}-{SETUPS.index(setup)}", setup)
                rates.setdefault(setup.label, []).append(rate)
                cpu.setdefault(setup.label, []).append(seconds)
            for workers, label in jobs.items():
                progress.advance_to(sum(map(len, rates.values())), label)
                rates.setdefault(label, []).append(measure(args, folder, f"job-{number}-{workers}", workers))
    return [
        Result(f"{label}{kind}", statistics.median(values), unit, "", ALONE.label, statistics.median(each[ALONE.label]))
        for each, kind, unit in ((rates, "", "tokens/s"), (cpu, ", CPU", "s per 1,000 tokens"))
        for label, values in each.items()
    ]


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
    parser.add_argument("--causes", action="store_true", help="show where the speed of a second worker goes")
    parser.add_argument("--rounds", type=int, default=3, help="of --causes")
    args = parser.parse_args()
    args.shards_dir = str(Path(args.shards_dir or quickstart_run("shards")).absolute())
    if args.causes:
        torch.set_num_threads(1)  # processes are forked
        with tempfile.TemporaryDirectory() as name:
            write_teacher(Path(name, "teacher"), args.shards_dir)
            print(table(causes(args, Path(name))))
        return
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
