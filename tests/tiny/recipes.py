"""Recipes that run in a few seconds for all jobs that use Ray, with their small input files."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from tests.tiny.corpus import write_corpus
from tests.tiny.fill_mask import rows_of, write_rows
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.search import values as search_values
from tests.tiny.search import write_next_sentence_task
from tests.tiny.shards import write_shards

ON_CPUS = ("build_corpus", "encode_corpus", "cache_teacher", "train_teacher", "search_glue")
ON_GPUS = ("distill", "evaluate_glue", "evaluate_fill_mask")
PLACES = ("river", "town", "mill", "bridge", "harbour", "market", "church", "school", "garden", "island")
TRAINING: dict[str, Any] = {
    "max_steps": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "precision": "fp32",
    "intervals": {"log_every_steps": 1, "checkpoint_every_steps": 2},
}


def write_inputs(folder: Path) -> None:
    """Write the inputs of the jobs, which take some hundred kilobytes."""
    tokenizer_dir = write_tokenizer(folder / "tokenizer")
    write_corpus(folder / "corpus")
    write_shards(folder / "shards", tokenizer_dir, chunk_mb=1, rows_per_shard=1000)  # one task per split
    write_teacher(folder / "model", tokenizer_dir, layers=2)
    write_next_sentence_task(folder / "glue")
    write_rows(folder / "data.jsonl", rows_of(8))
    (folder / "text").mkdir()
    for place in PLACES:
        lines = [
            f"The old {place} is {number} miles from the {other} of the town." for number, other in enumerate(PLACES)
        ]
        (folder / "text" / f"{place}.txt").write_text("\n".join(lines))


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the recipes by job, without `run_dir`; those of `ON_GPUS` use GPUs."""
    shards, model = {"shards_dir": str(folder / "shards")}, str(folder / "model")
    source = {"name": "own", "path": str(folder / "text"), "kind": "text", "document_per": "file"}
    fine_tuning = {"epochs": 1, "max_length": 32, "batch_size": 8, "seeds": [1], "max_train_examples": 48}
    search = search_values(folder, space={"learning_rate": {"choice": [1e-3]}}, fine_tuning=fine_tuning, seed=7)
    return {
        "build_corpus": {"sources": [source]},
        "encode_corpus": {
            "corpus_dir": str(folder / "corpus"),
            "tokenizer_dir": str(folder / "tokenizer"),
            "max_seq_length": 32,
            "dupe_factor": 1,
            "heldout_fraction": 0.2,
        },
        "cache_teacher": {
            **shards,
            "teacher_dir": model,
            "top_k": 8,
            "precision": "fp32",
            "scaling": {"gpus_per_task": 0, "cpus_per_task": 1},
        },
        "train_teacher": {
            **TRAINING,
            **shards,
            "encoder_dir": model,
            "scaling": {"num_workers": 1, "use_gpu": False, "cpus_per_worker": 1},
        },
        "search_glue": {name: value for name, value in search.items() if name != "run_dir"},
        "distill": {
            **TRAINING,
            **shards,
            "teacher_dir": model,
            "scaling": {"num_workers": 2, "use_gpu": True, "cpus_per_worker": 4},
            "fault_tolerance": {"max_failures": 0},
        },
        "evaluate_glue": {
            "model_dir": model,
            "glue_dir": str(folder / "glue"),
            "tasks": ["follows"],
            "precision": "fp32",
            "fine_tuning": fine_tuning,
            "scaling": {"use_gpu": True, "cpus_per_worker": 4, "max_failures": 0},
        },
        "evaluate_fill_mask": {
            "data": {"path": str(folder / "data.jsonl")},
            "student_dir": model,
            "precision": "fp32",
            "device": "auto",
        },
    }


def write_recipes(folder: Path) -> dict[str, str]:
    """Write the recipes, with run folders `runs/<job>`, and return their files by job."""
    written = {}
    for job, values in recipes(folder).items():
        (folder / "recipes" / job).mkdir(parents=True)
        written[job] = write_recipe(folder / "recipes" / job, run_dir=str(folder / "runs" / job), **values)
    return written


def load_job(name: str) -> ModuleType:
    """Return the module of a job."""
    return importlib.import_module(f"jobs.{name}")


def write_recipe(folder: Path, **values: object) -> str:
    """Write a recipe file into the folder."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)
