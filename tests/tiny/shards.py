"""Shards of a few kilobytes, encoded without Ray."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.distillation.feed import loss_divisors
from distilray.distillation.objective import LossDivisors
from distilray.pretraining_data import encoding
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime import pieces
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder
from tests.tiny.corpus import write_corpus
from tests.tiny.models import MAX_SEQ_LENGTH


def encode_config(run_dir: str = "unused", **changes: object) -> EncodeCorpusConfig:
    values = {"run_dir": run_dir, "corpus_dir": "unused", "tokenizer_dir": "unused", "max_seq_length": MAX_SEQ_LENGTH}
    return EncodeCorpusConfig.model_validate({**values, "dupe_factor": 1, "heldout_fraction": 0.2, **changes})


def write_shards(folder: Path, tokenizer_dir: str, *, documents: int = 40, **changes: object) -> str:
    """A complete run folder of `encode_corpus` with both splits in several shards, made in this process."""
    corpus_dir = write_corpus(folder.with_name(f"{folder.name}-corpus"), documents)
    values = {"corpus_dir": corpus_dir, "tokenizer_dir": tokenizer_dir, "chunk_mb": 0.001, "rows_per_shard": 60}
    config = encode_config(str(folder), **{**values, **changes})
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    outcome = encode_in_process(config, run)
    run.finish(outcome.counts, outcome.outputs, outcome.summary)
    return str(folder)


def encode_in_process(config: EncodeCorpusConfig, run: RunFolder) -> Outcome:
    """Run `encode_corpus` without Ray."""

    def one_by_one(
        items: list[dict[str, Any]], task: Callable[[dict[str, Any]], dict[str, Any]], **_: object
    ) -> Iterator[Any]:
        return map(task, items)

    with (
        patch.object(pieces, "run_tasks", one_by_one),
        patch.object(encoding, "ray_session", lambda _: nullcontext()),
        patch.object(encoding.ray, "put", lambda value: value),
        patch.object(encoding.ray, "get", lambda value: value),
    ):
        return encoding.encode_corpus(config, run)


def planned(rows: Any) -> PlannedRows:
    """Rows as of the first epoch."""
    return PlannedRows(np.asarray(rows), np.zeros(len(rows), np.int64))


def step_counts(shards: ShardSet, rows: Any) -> LossDivisors:
    """The counts of a step of some rows of the first epoch."""
    first = planned(rows)
    return loss_divisors(shards.lengths(first.rows), shards.mask_counts(first.rows, first.epochs))


def open_shards(shards_dir: str, split: str = "train") -> ShardSet:
    return ShardSet(shards_dir, split)
