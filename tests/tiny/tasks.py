"""Tasks of a few rows that a model of two layers learns in seconds: count the word `good` in a text."""

import copy
import functools
import threading
from collections.abc import Sequence

import numpy as np

from distilray.config.glue import TaskConfig
from distilray.finetuning.classifier import load_classifier
from distilray.finetuning.examples import Examples
from distilray.finetuning.features import TaskFeatures, encode_task
from distilray.finetuning.files import TaskData
from distilray.finetuning.tasks import TASKS, FineTuneTask
from distilray.pretraining_data.tokenizer import read_tokenizer
from tests.tiny.models import WORDS

OTHERS = [word for word in WORDS if word != "good"]
_LOADING = threading.Lock()  # transformers changes itself while it loads, and two threads would leave it changed


def settings(**changes: object) -> TaskConfig:
    values = {"learning_rate": 2e-3, "batch_size": 8, "epochs": 2, "max_length": 32, "warmup_fraction": 0.1}
    return TaskConfig.model_validate({**values, **changes})


def examples(task: FineTuneTask, rows: int, *, seed: int, labelled: bool = True) -> Examples:
    """Return random words that contain `good` as often as the class or the score requires."""
    rng = np.random.default_rng(seed)
    goods = rng.integers(0, 6 if task.is_regression else task.num_outputs, rows)
    texts = [_text(rng, int(count)) for count in goods]
    labels = goods.astype(np.float32 if task.is_regression else np.int64)
    second = None if len(task.columns) == 1 else [_text(rng, 0) for _ in range(rows)]
    return Examples(texts, second, labels if labelled else None)


def data(name: str, *, train: int = 15, dev: int = 9, test: int = 0) -> TaskData:
    task = TASKS[name]
    return TaskData(
        task=task,
        train=examples(task, train, seed=1),
        dev={split: examples(task, dev, seed=2 + place) for place, split in enumerate(task.dev)},
        test={split: examples(task, test, seed=9, labelled=False) for split in (task.test if test else ())},
        dropped={},
    )


def features(name: str, model_dir: str, *, seed: int = 1, changes: object = None, **rows: int) -> TaskFeatures:
    return encode_task(data(name, **rows), read_tokenizer(model_dir), changes or settings(), seed=seed)


def classifier(name: str, model_dir: str, *, seed: int = 1, dropout: float | None = None):
    with _LOADING:
        return copy.deepcopy(_classifier(name, model_dir, seed, dropout))


@functools.cache
def _classifier(name: str, model_dir: str, seed: int, dropout: float | None):
    return load_classifier(model_dir, TASKS[name], seed=seed, dropout=dropout)


def texts_of_lengths(lengths: Sequence[int], *, seed: int = 5) -> list[str]:
    """Return texts with these numbers of words, each of which is one token."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(OTHERS, length)) for length in lengths]


def _text(rng: np.random.Generator, goods: int) -> str:
    words = [*rng.choice(OTHERS, rng.integers(2, 8)), *["good"] * goods]
    return " ".join(rng.permutation(words))
