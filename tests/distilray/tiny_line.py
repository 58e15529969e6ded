"""A line of a few kilobytes: a corpus of small sentences, shards made without Ray, a BERT of four layers."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM

from distilray.config.corpus import BuildCorpusConfig
from distilray.config.pretraining_data import EncodeCorpusConfig
from distilray.distillation.feed import loss_divisors
from distilray.distillation.objective import LossDivisors
from distilray.models.masked_lm import save_model
from distilray.models.student import create_student
from distilray.pretraining_data import encoding
from distilray.pretraining_data.sample_plan import PlannedRows
from distilray.pretraining_data.shards import ShardSet
from distilray.pretraining_data.tokenizer import read_tokenizer, vocabulary_of
from distilray.runtime import pieces
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import DOCUMENTS
from tests.distilray.inference.tiny_models import WORDS, write_tiny_model

MAX_SEQ_LENGTH = 32


def sentences_of(documents: int, *, seed: int = 5) -> list[list[str]]:
    """Documents of 2 to 12 sentences of 3 to 12 words."""
    rng = np.random.default_rng(seed)
    return [
        [" ".join(rng.choice(WORDS, size=rng.integers(3, 13))) + "." for _ in range(rng.integers(2, 13))]
        for _ in range(documents)
    ]


def write_corpus(
    folder: Path,
    documents: int = 40,
    files: int = 3,
    sentences: list[list[str]] | None = None,
    row_group_size: int = 5,
) -> str:
    """A complete run folder of `build_corpus`; its documents are `sentences_of` if none are given."""
    config = BuildCorpusConfig.model_validate({"run_dir": str(folder), "sources": [{"path": "no-dump"}]})
    run = RunFolder("build_corpus", config, {})
    run.begin()
    all_sentences = sentences or sentences_of(documents)
    documents = len(all_sentences)
    outputs = {}
    for number, part in enumerate(np.array_split(np.arange(documents), files)):
        rows = [
            {
                "doc_id": f"test:{row}",
                "source": "test",
                "title": f"T{row}",
                "sentences": all_sentences[row],
                "file": "no-dump",
                "page_id": int(row),
                "revision_id": 1,
                "license": "CC0-1.0",
            }
            for row in part
        ]
        name = f"documents/documents-{number:05d}.parquet"
        (folder / "documents").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS), folder / name, row_group_size=row_group_size)
        outputs[name] = {"rows": len(rows), **run.describe_outputs([name])[name]}
    words = sum(len(sentence.split()) for document in all_sentences for sentence in document)
    run.finish({"documents": documents, "words": words}, outputs, "a corpus")
    return str(folder)


def write_tokenizer(folder: Path) -> str:
    """A folder with the tokenizer of the tiny models."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_tiny_model(folder, "bert")


def write_teacher(folder: Path, tokenizer_dir: str, *, layers: int = 4) -> str:
    """A BERT with random weights and the tiny tokenizer, in a folder as `train_teacher` writes it."""
    tokenizer_json = read_tokenizer(tokenizer_dir)
    torch.manual_seed(3)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary_of(tokenizer_json).size,
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=MAX_SEQ_LENGTH,
            initializer_range=0.1,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, folder, tokenizer_json)
    return str(folder)


def distant_student(teacher: Any) -> Any:
    """A student moved away from its teacher, so that no loss and no gradient is near 0."""
    model = create_student(teacher)[0]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


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
    """What `encode_corpus` does, without Ray."""

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


def write_recipe(folder: Path, **values: object) -> str:
    """A recipe file in the folder."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


def planned(rows: Any) -> PlannedRows:
    """Rows as of the first epoch."""
    return PlannedRows(np.asarray(rows), np.zeros(len(rows), np.int64))


def step_counts(shards: ShardSet, rows: Any) -> LossDivisors:
    """The counts of a step of some rows of the first epoch."""
    first = planned(rows)
    return loss_divisors(shards.lengths(first.rows), shards.mask_counts(first.rows, first.epochs))


def open_shards(shards_dir: str, split: str = "train") -> ShardSet:
    return ShardSet(shards_dir, split)
