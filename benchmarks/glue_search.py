"""Overhead of a hyperparameter search beyond its training runs, and savings by ASHA.

    make bench glue_search
    PYTHONPATH=platform:. python -m benchmarks.glue_search [--part overhead|asha|both] [...]

(a) overhead: runs trials of about `--seconds` each with `jobs.search_glue`, one at a time, and the same fine-tuning
runs back to back in one process; compares the wall times, from the start of the process to the last score.
(b) asha: runs a grid with and without ASHA; compares the trained epochs and the best scores. Takes half an hour.

Without `--glue-dir`, the task is `follows`, built from the quickstart's corpus (`--corpus-dir`). The model is that of
the sample.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.inputs import quickstart_run
from benchmarks.results import Result, table
from distilray.config.glue import SearchGlueConfig, with_values
from distilray.evaluation.next_sentence_task import write_next_sentence_task
from distilray.finetuning.classifier import load_classifier
from distilray.finetuning.classifier_training import ClassifierTraining, fine_tune
from distilray.finetuning.features import TaskFeatures, encode_tasks
from distilray.finetuning.files import load_tasks
from distilray.finetuning.tasks import TASKS
from distilray.models.precision import compute_dtype
from distilray.models.sources import localize
from tuning.space import points

CPU = torch.device("cpu")
GRID = {
    "learning_rate": {"choice": [2e-5, 5e-5, 1e-4, 2e-4]},
    "batch_size": {"choice": [16, 32]},
    "warmup_fraction": {"choice": [0.0, 0.1]},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", choices=("overhead", "asha", "both"), default="overhead")
    parser.add_argument("--model-dir", default="sample:encoder")
    parser.add_argument("--glue-dir", help="folder of the task; default: build `follows`")
    parser.add_argument("--task", default="follows", help="task in glue_dir")
    parser.add_argument("--corpus-dir", help="corpus for `follows` (default: that of the quickstart)")
    parser.add_argument("--train-rows", type=int, default=800)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--trials", type=int, default=3, help="number of trials of part (a)")
    parser.add_argument("--seconds", type=float, default=25.0, help="duration of a trial of part (a)")
    parser.add_argument("--epochs", type=int, default=9, help="epochs of a trial of part (b)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of a trial")
    parser.add_argument(
        "--back-to-back", metavar="RECIPE", help=argparse.SUPPRESS
    )  # the comparison process of part (a)
    return parser.parse_args()


def recipe(args: argparse.Namespace, folder: Path, name: str, **changes: Any) -> Path:
    """Write a recipe for `jobs.search_glue` with one task and one trial at a time."""
    fine_tuning = {
        "max_length": args.max_length,
        "max_train_examples": args.train_rows,
        "seeds": [1, 2, 3],
        **changes.pop("fine_tuning", {}),
    }
    values = {
        "run_dir": str(folder / name),
        "model_dir": args.model_dir,
        "glue_dir": args.glue_dir,
        "tasks": [args.task],
        "precision": "fp32",
        "method": "grid",
        "fine_tuning": fine_tuning,
        "trial": {"cpus": args.cpus, "gpus": 0},
        "ray": {"num_cpus": args.cpus},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**values, **changes}))
    return file


def config_of(file: Path) -> SearchGlueConfig:
    return SearchGlueConfig.model_validate(yaml.safe_load(file.read_text()))


def features_of(config: SearchGlueConfig) -> TaskFeatures:
    data, _ = load_tasks(config, with_test=False)
    return encode_tasks(config, data)[config.tasks[0]]


def train_back_to_back(config: SearchGlueConfig) -> tuple[float, float]:
    """Train all points of the search space in this process; return the best score and the mean seconds per point."""
    (task,) = config.tasks
    torch.set_num_threads(int(config.trial.cpus))
    features, best, seconds = features_of(config), 0.0, []
    for values in points(config, task) or []:
        settings = with_values(config.task_config(task), values)
        model = load_classifier(localize(config.model_dir), TASKS[task], seed=config.seed)
        with tempfile.TemporaryDirectory() as checkpoint_dir:
            dtype = compute_dtype(config.precision, CPU)
            result = fine_tune(
                ClassifierTraining(model, features, settings, config.seed, CPU, dtype), folder=checkpoint_dir
            )
        best = max(best, result.best.scores[settings.metric])
        seconds.append(result.evaluations[-1].seconds)
    return best, sum(seconds) / len(seconds)


def measure_epoch(args: argparse.Namespace, folder: Path) -> float:
    """Return the seconds of an epoch, from which the number of epochs of a trial is computed."""
    config = config_of(recipe(args, folder, "probe", space={"batch_size": {"choice": [32]}}, fine_tuning={"epochs": 1}))
    return train_back_to_back(config)[1]


def overhead(args: argparse.Namespace, folder: Path) -> list[Result]:
    epochs = max(1, round(args.seconds / measure_epoch(args, folder)))
    rates = [1e-5 * (number + 1) for number in range(args.trials)]
    file = recipe(
        args,
        folder,
        "overhead",
        space={"learning_rate": {"choice": rates}},
        fine_tuning={"epochs": epochs, "batch_size": 32},
        asha={"enabled": False},
    )
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "benchmarks.glue_search", "--back-to-back", str(file)], check=True)
    alone = time.perf_counter() - start
    start = time.time()
    subprocess.run([sys.executable, "-m", "jobs.search_glue", "--recipe", str(file)], check=True)
    # The search ends with its last record; training the winner again with other seeds is not part of the comparison.
    ends = [record.stat().st_mtime for record in (folder / "overhead/trials").rglob("record.json")]
    search_s = max(ends) - start
    what = f"search, {args.trials} trials of {epochs} epochs"
    return [Result(what, search_s, "s", "<= 1.05", "the trials back to back", alone)]


def asha(args: argparse.Namespace, folder: Path) -> list[Result]:
    scores = {}
    for name, enabled in (("whole-grid", False), ("with-asha", True)):
        file = recipe(
            args,
            folder,
            name,
            space=GRID,
            fine_tuning={"epochs": args.epochs},
            asha={"enabled": enabled, "grace_evaluations": 1, "reduction_factor": 3},
        )
        subprocess.run([sys.executable, "-m", "jobs.search_glue", "--recipe", str(file)], check=True)
        scores[name] = json.loads((folder / name / "scores.json").read_text())["search"][args.task]
    grid, asha_scores = scores["whole-grid"], scores["with-asha"]
    spread = grid["fresh"]["spread"]
    lost, whole = grid["winner"]["score"] - asha_scores["winner"]["score"], grid["epochs_trained"]
    return [
        Result("epochs with ASHA", asha_scores["epochs_trained"], "", "<= 0.5", "whole grid", whole),
        Result("score lost by ASHA", lost, "", "<= 1", "spread of the winner's seeds", spread),
    ]


def main() -> None:
    args = arguments()
    if args.back_to_back:
        best, seconds = train_back_to_back(config_of(Path(args.back_to_back)))
        print(f"back to back: best {best:.4f}, {seconds:.1f} s of training each")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.glue_dir is None:
            args.glue_dir = str(folder / "glue")
            corpus_dir = args.corpus_dir or quickstart_run("corpus")
            write_next_sentence_task(corpus_dir, args.glue_dir, seed=56, train=args.train_rows, dev=200, test=200)
        results = []
        if args.part != "asha":
            results += overhead(args, folder)
        if args.part != "overhead":
            results += asha(args, folder)
    print(table(results))


if __name__ == "__main__":
    main()
