"""Inputs of a search that takes seconds: a small task in GLUE's layout, a tiny BERT, trials of a few steps."""

from pathlib import Path
from typing import Any

import numpy as np

from distilray.config.glue import SearchGlueConfig
from tests.tiny.glue import OFFICIAL_ROWS, write_lines, write_raw
from tests.tiny.models import write_teacher, write_tokenizer
from tests.tiny.tasks import OTHERS

SPACE: dict[str, Any] = {"learning_rate": {"choice": [1e-5, 1e-3, 3e-3]}, "batch_size": {"choice": [8, 16]}}


def write_model(folder: Path) -> str:
    """Write a BERT with two layers and random weights."""
    return write_teacher(folder / "model", write_tokenizer(folder / "tokenizer"), layers=2)


def write_next_sentence_task(glue_dir: Path, *, train: int = 48, dev: int = 24) -> str:
    """Write the task `follows`: the first text contains `good` in one class only."""
    rng = np.random.default_rng(3)
    for split, rows in (("train", train), ("dev", dev)):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for row in range(rows):
            is_good = bool(rng.integers(2))
            words = [*rng.choice(OTHERS, 4), *(["good", "good"] if is_good else [])]
            second = " ".join(rng.choice(OTHERS, 3))
            lines.append(f"{row}\t{' '.join(rng.permutation(words))}\t{second}\t{'' if is_good else 'not_'}follows")
        write_lines(glue_dir / "Follows" / f"{split}.tsv", lines)
    return str(glue_dir)


def write_wnli(glue_dir: Path) -> None:
    """Write train and dev of WNLI, the smallest official task."""
    write_raw(glue_dir, "wnli", {split: OFFICIAL_ROWS["wnli"][split] for split in ("train", "dev")})


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a recipe of the job with the model and the task in `folder`."""
    recipe = {
        "run_dir": str(folder / "search"),
        "model_dir": str(folder / "model"),
        "glue_dir": str(folder / "glue"),
        "tasks": ["follows"],
        "precision": "fp32",
        "fine_tuning": {"epochs": 3, "max_length": 32, "batch_size": 8, "seeds": [1], "max_train_examples": 48},
        "method": "grid",
        "space": SPACE,
        "trial": {"cpus": 1, "gpus": 0},
        "ray": {"num_cpus": 2},
    }
    return {**recipe, **changes}


def config(folder: Path, **changes: Any) -> SearchGlueConfig:
    return SearchGlueConfig.model_validate(values(folder, **changes))
