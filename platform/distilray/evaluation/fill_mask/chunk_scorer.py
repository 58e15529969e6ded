"""Reads, encodes and scores the data in chunks, and writes the answers of each chunk.

A chunk has `data.chunk_rows` rows of one file. It is always scored as a whole and in the same batches, so its scores
depend neither on the actor nor on earlier interruptions.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distilray.config.evaluation import EvaluateFillMaskConfig
from distilray.evaluation.fill_mask.causal import CausalPerplexity
from distilray.evaluation.fill_mask.examples import MaskedExample, fill_masks
from distilray.evaluation.fill_mask.readers import DataFile, read_examples
from distilray.evaluation.fill_mask.scoring import AnswerScores, model_dirs, score_windows
from distilray.evaluation.fill_mask.windows import Windows, encode_examples, only_scored
from distilray.formats.bad_rows import BadRow
from distilray.models.masked_lm import load_masked_lm
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer, vocabulary_of
from distilray.runtime import storage
from distilray.runtime.outputs import verify_file
from distilray.runtime.pieces import CompletedPieces

T = TypeVar("T")
Values = dict[str, Any]

ANSWERS_FOLDER = "answers"
PREDICTIONS_FOLDER = "predictions"
CHUNKS, FILES = "chunks", "files"  # stages of completed pieces
MAX_BATCH_TOKENS = 4096  # including padding
_LISTED_ROWS = 20  # bad rows of a chunk that are recorded in full
_CHUNKS_PER_FILE = 1_000_000  # chunk number = file number x this + index in the file


def chunk_numbers(file: int, count: int) -> range:
    """Return the chunk numbers of a file with `count` chunks."""
    return range(file * _CHUNKS_PER_FILE, file * _CHUNKS_PER_FILE + count)


def answers_name(chunk: int) -> str:
    """Return the path of a chunk's answers in the run folder."""
    return f"{ANSWERS_FOLDER}/{chunk:09d}.parquet"


def predictions_name(chunk: int) -> str:
    """Return the path of a chunk's filled texts in the run folder."""
    return f"{PREDICTIONS_FOLDER}/{chunk:09d}.parquet"


def read_chunks(
    file: DataFile, config: EvaluateFillMaskConfig, tokenizer_json: str, *, max_length: int, folder: str
) -> Iterator[pa.Table]:
    """Yield the incomplete chunks of a file as tables of one row, and then record the file's number of chunks.

    Raises:
        InputError: the file is damaged, or differs from the manifest of the run that wrote it.
    """
    assert config.data is not None
    verify_file(file.uri)
    done, count, total = CompletedPieces(folder, CHUNKS).numbers(), 0, 0
    for rows in _batched(read_examples(file, config.data, seed=config.seed), config.data.chunk_rows):
        number = chunk_numbers(file.number, count + 1)[-1]
        if number not in done:
            yield _chunk_table(number, file.name, rows, config, tokenizer_json, max_length)
        count, total = count + 1, total + len(rows)
    CompletedPieces(folder, FILES).add(file.number, {"chunks": count, "rows": total})


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _chunk_table(
    number: int,
    name: str,
    rows: Sequence[MaskedExample | BadRow],
    config: EvaluateFillMaskConfig,
    tokenizer_json: str,
    max_length: int,
) -> pa.Table:
    examples = [row for row in rows if isinstance(row, MaskedExample)]
    needs_texts = config.causal is not None
    windows, kept, unencodable = encode_examples(examples, tokenizer_json, max_length=max_length, fill_all=needs_texts)
    bad = sorted([*unencodable, *(row for row in rows if isinstance(row, BadRow))], key=lambda row: row.row)
    listed = [{"file": f"{name}:{row.row}", "reason": row.reason, "detail": row.detail} for row in bad[:_LISTED_ROWS]]
    record = {"rows": len(rows), "bad": dict(Counter(row.reason for row in bad)), "listed": listed}
    texts = [list(example.fragments) for example in kept] if needs_texts else []
    return pa.table(
        {
            "number": [number],
            "file": [name],
            "record": [json.dumps(record)],
            "texts": pa.array([texts], pa.list_(pa.list_(pa.string()))),
            **windows.to_columns(),
        }
    )


class ChunkScorer:
    """Scores chunks with the models of a run on one device, writes the answers and records the chunk as complete."""

    def __init__(self, config: EvaluateFillMaskConfig, folder: str, device: str) -> None:
        assert config.data is not None
        self._config, self._data, self._folder = config, config.data, folder
        if device == "cpu":
            torch.set_num_threads(config.scaling.cpus_per_actor)
        folders = model_dirs(config)
        self._models = {name: load_masked_lm(model_dir).to(device) for name, model_dir in folders.items()}
        self._tokenizer_json = read_tokenizer(folders["student"])
        self._causal = None
        if config.causal is not None:
            self._causal = CausalPerplexity(
                config.causal.model_dir,
                batch_size=config.causal.batch_size,
                add_start_token=config.causal.add_start_token,
                device=torch.device(device),
            )

    def score(self, chunk: pa.Table) -> Values:
        """Score a chunk from `read_chunks`; return its number, its row count and its bad-row count."""
        number, name = chunk.column("number")[0].as_py(), chunk.column("file")[0].as_py()
        windows = Windows.from_row(chunk)
        scores = {model: self._score_windows(model, windows) for model in self._models}
        record = json.loads(chunk.column("record")[0].as_py())
        if self._causal is not None:
            table = self._predictions(windows, scores, chunk.column("texts")[0].as_py(), name)
            _write_table(storage.join(self._folder, predictions_name(number)), table)
        table = self._answers(windows, scores, name)
        output = _write_table(storage.join(self._folder, answers_name(number)), table)
        record |= {"answers": table.num_rows, "windows": len(only_scored(windows).lengths), "output": output}
        CompletedPieces(self._folder, CHUNKS).add(number, record)
        return {"number": number, "rows": record["rows"], "bad": sum(record["bad"].values())}

    def _score_windows(self, model: str, windows: Windows) -> AnswerScores:
        return score_windows(
            self._models[model],
            windows,
            pad_id=vocabulary_of(self._tokenizer_json).pad,
            precision=self._config.precision,
            max_rows=self._config.batch_size,
            max_tokens=MAX_BATCH_TOKENS,
            left_to_right=self._data.left_to_right,
        )

    def _answers(self, windows: Windows, scores: dict[str, AnswerScores], name: str) -> pa.Table:
        """Return a table with one row per scored answer."""
        keep = windows.scored.astype(bool)
        columns: Values = {
            "file": pa.array([name] * int(keep.sum()), pa.string()),
            "row": windows.row[keep],
            "mask": windows.mask[keep],
            "pieces": windows.pieces[keep],
        }
        for model, model_scores in scores.items():
            best = [self._tokens(model_scores.best[start:end].tolist()) for start, end in _spans(windows)]
            columns |= {
                f"{model}_rank": model_scores.ranks[keep],
                f"{model}_loss": model_scores.losses[keep],
                f"{model}_left_to_right_rank": model_scores.left_to_right_ranks[keep],
                f"{model}_left_to_right_loss": model_scores.left_to_right_losses[keep],
                f"{model}_best": pa.array(
                    [tokens for tokens, kept in zip(best, keep, strict=True) if kept], pa.list_(pa.string())
                ),
            }
        if len(scores) == 2:
            first, second = (model_scores.best for model_scores in scores.values())
            same_before = np.concatenate([[0], (first == second).cumsum()])  # equal predictions before each piece
            columns["same_best"] = (same_before[windows.bounds[1:]] - same_before[windows.bounds[:-1]])[keep]
        return pa.table(columns)

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        tokenizer = build_tokenizer(self._tokenizer_json)
        return [tokenizer.id_to_token(token) or "" for token in ids]

    def _predictions(
        self, windows: Windows, scores: dict[str, AnswerScores], texts: Sequence[Sequence[str]], name: str
    ) -> pa.Table:
        """Return the texts filled by each model, with their perplexity under the causal model."""
        assert self._causal is not None
        rows, tokenizer = np.unique(windows.row), build_tokenizer(self._tokenizer_json)
        columns: Values = {"file": pa.array([name] * len(rows), pa.string()), "row": rows}
        for model, model_scores in scores.items():
            decoded = tokenizer.decode_batch([model_scores.best[start:end].tolist() for start, end in _spans(windows)])
            by_row = np.split(np.array(decoded, object), np.searchsorted(windows.row, rows[1:])) if len(rows) else []
            filled_texts = [
                fill_masks(fragments, list(answers)) for fragments, answers in zip(texts, by_row, strict=True)
            ]
            columns[f"{model}_text"] = pa.array(filled_texts, pa.string())
            columns[f"{model}_perplexity"] = pa.array(self._causal.perplexities(filled_texts), pa.float64())
        return pa.table(columns)


def _spans(windows: Windows) -> list[tuple[int, int]]:
    """Return the start and end of each answer in the list of all pieces."""
    bounds: list[int] = windows.bounds.tolist()
    return list(pairwise(bounds))


def _write_table(uri: str, table: pa.Table) -> Values:
    """Write a table and return its entry in the manifest."""
    with storage.FileWriter(uri) as file:
        pq.write_table(table, pa.PythonFile(file, mode="w"))
    return {"rows": table.num_rows, "bytes": file.bytes, "sha256": file.sha256}
