"""What a search costs beside its trainings, and what ASHA saves, each as a ratio in one run.

PYTHONPATH=platform:. python benchmarks/glue_search.py [--part overhead|asha] [--glue-dir DIR --task TASK] [...]

(a) overhead: trials of about `--seconds` each by `jobs.search_glue`, one at a time, and the same fine-tunings back to
back in one process; the ratio of wall times, both from the start of their process to the last score.
(b) asha: a grid with ASHA and the same grid whole; epochs trained, best scores, and the spread of the winner's seeds.

Without --glue-dir the task is `follows`, made from the quickstart's corpus (--corpus-dir); the model is the sample.
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
    parser.add_argument("--part", choices=("overhead", "asha", "both"), default="both")
    parser.add_argument("--model-dir", default="sample:encoder")
    parser.add_argument("--glue-dir", help="folder with the task; without it `follows` is made")
    parser.add_argument("--task", default="follows", help="one of glue_dir")
    parser.add_argument("--corpus-dir", default="runs/quickstart/corpus", help="what `follows` is made from")
    parser.add_argument("--train-rows", type=int, default=800)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--trials", type=int, default=10, help="of the first part")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a trial of the first part")
    parser.add_argument("--epochs", type=int, default=9, help="of a trial of the second part")
    parser.add_argument("--cpus", type=int, default=1, help="of a trial")
    parser.add_argument("--back-to-back", metavar="RECIPE", help=argparse.SUPPRESS)  # the other process of part one
    return parser.parse_args()


def recipe(given: argparse.Namespace, folder: Path, name: str, **changes: Any) -> Path:
    """A recipe of the job on one task, one trial at a time."""
    tuned = {
        "max_length": given.max_length,
        "max_train_examples": given.train_rows,
        "seeds": [1, 2, 3],
        **changes.pop("fine_tuning", {}),
    }
    values = {
        "run_dir": str(folder / name),
        "model_dir": given.model_dir,
        "glue_dir": given.glue_dir,
        "tasks": [given.task],
        "precision": "fp32",
        "method": "grid",
        "fine_tuning": tuned,
        "trial": {"cpus": given.cpus, "gpus": 0},
        "ray": {"num_cpus": given.cpus},
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
    """Every point of the space, one after the other in this process; returns the best score and the seconds of each."""
    (task,) = config.tasks
    torch.set_num_threads(int(config.trial.cpus))
    features, best, seconds = features_of(config), 0.0, []
    for values in points(config, task) or []:
        settings = with_values(config.task_config(task), values)
        model = load_classifier(localize(config.model_dir), TASKS[task], seed=config.seed)
        with tempfile.TemporaryDirectory() as kept:
            dtype = compute_dtype(config.precision, CPU)
            ended = fine_tune(ClassifierTraining(model, features, settings, config.seed, CPU, dtype), folder=kept)
        best = max(best, ended.best.scores[settings.metric])
        seconds.append(ended.evaluations[-1].seconds)
    return best, sum(seconds) / len(seconds)


def seconds_of_an_epoch(given: argparse.Namespace, folder: Path) -> float:
    """Measured here, to choose as many epochs as make a trial long enough."""
    config = config_of(
        recipe(given, folder, "probe", space={"batch_size": {"choice": [32]}}, fine_tuning={"epochs": 1})
    )
    return train_back_to_back(config)[1]


def overhead(given: argparse.Namespace, folder: Path) -> None:
    epochs = max(1, round(given.seconds / seconds_of_an_epoch(given, folder)))
    rates = [1e-5 * (number + 1) for number in range(given.trials)]
    file = recipe(
        given,
        folder,
        "overhead",
        space={"learning_rate": {"choice": rates}},
        fine_tuning={"epochs": epochs, "batch_size": 32},
        asha={"enabled": False},
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--back-to-back", str(file)], check=True)
    alone = time.perf_counter() - started
    started = time.time()
    subprocess.run([sys.executable, "-m", "jobs.search_glue", "--recipe", str(file)], check=True)
    # The last record is the end of the search; after it come the winner's seeds, which are no part of the comparison.
    ends = [record.stat().st_mtime for record in (folder / "overhead/trials").rglob("record.json")]
    searched = max(ends) - started
    print(f"{given.trials} trials of {epochs} epochs: back to back {alone:.1f} s ({alone / given.trials:.1f} s each)")
    print(f"by the search {searched:.1f} s: {searched / alone:.3f}x")


def asha(given: argparse.Namespace, folder: Path) -> None:
    found = {}
    for name, enabled in (("whole-grid", False), ("with-asha", True)):
        file = recipe(
            given,
            folder,
            name,
            space=GRID,
            fine_tuning={"epochs": given.epochs},
            asha={"enabled": enabled, "grace_evaluations": 1, "reduction_factor": 3},
        )
        subprocess.run([sys.executable, "-m", "jobs.search_glue", "--recipe", str(file)], check=True)
        found[name] = json.loads((folder / name / "scores.json").read_text())["search"][given.task]
    whole, early = found["whole-grid"], found["with-asha"]
    for name, figures in found.items():
        fresh = figures["fresh"]
        print(
            f"{name}: {figures['epochs_trained']:.0f} epochs, best {figures['winner']['score']:.4f}, winner again "
            f"{fresh['median']:.4f} (median of {len(fresh['scores'])} seeds, spread {fresh['spread']:.4f})"
        )
    lost, spread = whole["winner"]["score"] - early["winner"]["score"], whole["fresh"]["spread"]
    share = early["epochs_trained"] / whole["epochs_trained"]
    print(f"ASHA used {share:.1%} of the epochs; best score {lost:.4f} below the whole grid's (spread {spread:.4f})")


def main() -> None:
    given = arguments()
    if given.back_to_back:
        best, seconds = train_back_to_back(config_of(Path(given.back_to_back)))
        print(f"back to back: best {best:.4f}, {seconds:.1f} s of training each")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.glue_dir is None:
            given.glue_dir = str(folder / "glue")
            write_next_sentence_task(
                given.corpus_dir, given.glue_dir, seed=56, train=given.train_rows, dev=200, test=200
            )
        if given.part != "asha":
            overhead(given, folder)
        if given.part != "overhead":
            asha(given, folder)


if __name__ == "__main__":
    main()
