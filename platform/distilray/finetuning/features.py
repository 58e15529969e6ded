"""Rows of a task as token ids, and batches of an epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from distilray.config.glue import GlueConfig, TaskConfig, TaskName
from distilray.errors import InputError
from distilray.finetuning.examples import Examples
from distilray.finetuning.files import TaskData
from distilray.models.sources import localize
from distilray.pretraining_data.batches import WIDTH_MULTIPLE, padded_width
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime.seeding import generator

Rows = NDArray[np.int64]
# Rows of this many batches are sorted by length together. A larger window saves little more padding and
# shuffles less.
_WINDOW_BATCHES = 50
_CHUNK_ROWS = 10_000


@dataclass(frozen=True)
class Features:
    """Rows of a split as `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`.

    Attributes:
        input_ids: (tokens,) ids of all rows, concatenated.
        offsets: (rows + 1,) row i has the tokens [offsets[i], offsets[i + 1]).
        second_starts: (rows,) start of B in its row; the length of the row if it has no B.
        labels: (rows,) int64 class ids or float32 scores; None for a test set.
    """

    input_ids: NDArray[np.uint16]
    offsets: Rows
    second_starts: NDArray[np.int32]
    labels: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.second_starts)

    @property
    def lengths(self) -> Rows:
        """Number of tokens of each row, (rows,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class TaskFeatures:
    """Encoded rows of a task, shared by all of its fine-tuning runs."""

    task: TaskName
    train: Features
    dev: Mapping[str, Features]
    test: Mapping[str, Features]
    pad_id: int
    tokenizer_json: str

    @property
    def dev_labels(self) -> dict[str, NDArray[Any]]:
        """Labels of each dev set, (rows,)."""
        return {name: split.labels for name, split in self.dev.items() if split.labels is not None}


@dataclass(frozen=True)
class FeatureBatch:
    """A padded batch.

    Attributes:
        input_ids, attention_mask, token_type_ids: (batch, length) int64.
        labels: (batch,) int64 or float32; None for a test set.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    labels: Tensor | None

    def to(self, device: torch.device) -> "FeatureBatch":
        ids, mask, types = (each.to(device) for each in (self.input_ids, self.attention_mask, self.token_type_ids))
        return FeatureBatch(ids, mask, types, None if self.labels is None else self.labels.to(device))


def encode_task(data: TaskData, tokenizer_json: str, settings: TaskConfig, *, seed: int) -> TaskFeatures:
    """Tokenize a task. Rows are truncated to `settings.max_length` tokens, the longer of two texts first.

    Args:
        tokenizer_json: canonical JSON of the tokenizer.
        seed: selects the training rows if `settings.max_train_examples` limits their number.

    Raises:
        InputError: the tokenizer is not a BERT tokenizer.
    """
    tokenizer = truncating_tokenizer(tokenizer_json, settings.max_length)
    train = _sample(data.train, settings.max_train_examples, seed)
    return TaskFeatures(
        task=data.task.name,
        train=_encode(train, tokenizer),
        dev={name: _encode(examples, tokenizer) for name, examples in data.dev.items()},
        test={name: _encode(examples, tokenizer) for name, examples in data.test.items()},
        pad_id=vocabulary_of(tokenizer_json).pad,
        tokenizer_json=tokenizer_json,
    )


def encode_tasks(config: GlueConfig, data: Mapping[TaskName, TaskData]) -> dict[TaskName, TaskFeatures]:
    """Tokenize the tasks of a recipe once for all fine-tuning runs."""
    tokenizer_json, seed = read_tokenizer(localize(config.model_dir)), config.seed
    return {task: encode_task(rows, tokenizer_json, config.task_config(task), seed=seed) for task, rows in data.items()}


def truncating_tokenizer(tokenizer_json: str, max_length: int) -> Tokenizer:
    """Return a tokenizer that truncates texts and pairs to `max_length` tokens, the longer of two texts first.

    Raises:
        InputError: the tokenizer is not a BERT tokenizer.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)  # a new object, because truncation is part of its state
    if [tokenizer.num_special_tokens_to_add(is_pair) for is_pair in (False, True)] != [2, 3]:
        raise InputError(
            "tokenizer.json: it does not write [CLS] A [SEP] B [SEP]; choose a model with a BERT tokenizer"
        )
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer


def epoch_batches(lengths: NDArray[np.integer], *, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """Return the row numbers of each batch of an epoch, in random order, with rows of similar length together.

    Args:
        lengths: (rows,) number of tokens of each row.
        batch_size: rows per batch; one batch contains the remainder.
    """
    random = generator(seed, epoch)
    order, window = random.permutation(len(lengths)), batch_size * _WINDOW_BATCHES
    batches: list[Rows] = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def collate(features: Features, rows: Rows, pad_id: int, multiple: int = WIDTH_MULTIPLE) -> FeatureBatch:
    """Pad rows to the length of the longest one, rounded up to a multiple."""
    lengths = features.lengths[rows]
    positions = np.arange(padded_width(int(lengths.max()), multiple))
    is_token = positions < lengths[:, None]
    tokens = np.where(is_token, features.offsets[rows][:, None] + positions, 0)
    input_ids = np.where(is_token, features.input_ids[tokens].astype(np.int64), pad_id)
    is_second = is_token & (positions >= features.second_starts[rows][:, None])
    labels = None if features.labels is None else torch.from_numpy(features.labels[rows])
    ids, mask, types = (torch.from_numpy(values.astype(np.int64)) for values in (input_ids, is_token, is_second))
    return FeatureBatch(ids, mask, types, labels)


def _sample(examples: Examples, limit: int | None, seed: int) -> Examples:
    if limit is None or limit >= len(examples.first):
        return examples
    rows = np.sort(generator(seed).permutation(len(examples.first))[:limit])
    second, labels = examples.second, examples.labels
    return Examples(
        [examples.first[row] for row in rows],
        None if second is None else [second[row] for row in rows],
        None if labels is None else labels[rows],
    )


def _encode(examples: Examples, tokenizer: Tokenizer) -> Features:
    second = examples.second
    texts: list[Any] = examples.first if second is None else list(zip(examples.first, second, strict=True))
    ids: list[NDArray[np.uint16]] = [np.empty(0, np.uint16)]
    lengths, in_second = [np.zeros(1, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(texts), _CHUNK_ROWS):
        encodings = tokenizer.encode_batch_fast(texts[start : start + _CHUNK_ROWS])
        ids += [np.array(encoding.ids, np.uint16) for encoding in encodings]
        lengths.append(np.array([len(encoding) for encoding in encodings]))
        in_second.append(np.array([sum(encoding.type_ids) for encoding in encodings]))
    offsets = np.concatenate(lengths).cumsum()
    second_starts = (np.diff(offsets) - np.concatenate(in_second)).astype(np.int32)
    return Features(np.concatenate(ids), offsets, second_starts, examples.labels)
