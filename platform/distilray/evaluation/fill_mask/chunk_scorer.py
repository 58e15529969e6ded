"""The work on one part of the data: its rows as windows, and what the models say of them as a file.

A part is `data.chunk_rows` rows of one file. It is always scored as a whole, in the same batches, so its numbers do not
depend on who does it, nor on what was done before.
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
CHUNKS, FILES = "parts", "files"  # stages of completed pieces
MAX_BATCH_TOKENS = 4096  # padding included
LISTED = 20  # bad rows of a part that are listed
_PARTS_OF_FILE = 1_000_000  # a part's number is that of its file, times this, and its place in the file


def chunk_numbers(file: int, count: int) -> range:
    """The numbers of the parts of a file."""
    return range(file * _PARTS_OF_FILE, file * _PARTS_OF_FILE + count)


def answers_name(part: int) -> str:
    """The file of a part's answers in the run folder."""
    return f"{ANSWERS_FOLDER}/{part:09d}.parquet"


def read_chunks(
    file: DataFile, config: EvaluateFillMaskConfig, tokenizer_json: str, *, max_length: int, folder: str
) -> Iterator[pa.Table]:
    """The parts of a file that are not done yet, each a table of one row; records the number of parts of the file.

    Raises:
        InputError: the file cannot be read to its end, or is not what the manifest of its run says.
    """
    assert config.data is not None
    verify_file(file.uri)
    done, count, rows = CompletedPieces(folder, CHUNKS).numbers(), 0, 0
    for chunk in _batched(read_examples(file, config.data, seed=config.seed), config.data.chunk_rows):
        number = chunk_numbers(file.number, count + 1)[-1]
        if number not in done:
            yield _part_table(number, file.name, chunk, config, tokenizer_json, max_length)
        count, rows = count + 1, rows + len(chunk)
    CompletedPieces(folder, FILES).add(file.number, {"parts": count, "rows": rows})


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _part_table(
    number: int,
    name: str,
    rows: Sequence[MaskedExample | BadRow],
    config: EvaluateFillMaskConfig,
    tokenizer_json: str,
    max_length: int,
) -> pa.Table:
    examples = [row for row in rows if isinstance(row, MaskedExample)]
    wants_texts = config.causal is not None
    windows, kept, refused = encode_examples(examples, tokenizer_json, max_length=max_length, fill_all=wants_texts)
    bad = sorted([*refused, *(row for row in rows if isinstance(row, BadRow))], key=lambda each: each.row)
    listed = [{"file": f"{name}:{each.row}", "reason": each.reason, "detail": each.detail} for each in bad[:LISTED]]
    facts = {"rows": len(rows), "bad": dict(Counter(each.reason for each in bad)), "listed": listed}
    texts = [list(example.fragments) for example in kept] if wants_texts else []
    return pa.table(
        {
            "number": [number],
            "file": [name],
            "facts": [json.dumps(facts)],
            "texts": pa.array([texts], pa.list_(pa.list_(pa.string()))),
            **windows.to_columns(),
        }
    )


class ChunkScorer:
    """The models of a run, on one device; writes what they say of a part, then records that it is complete."""

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

    def score(self, part: pa.Table) -> Values:
        """Scores a part of `read_parts`; gives its number, its rows and its bad rows."""
        number, name = part.column("number")[0].as_py(), part.column("file")[0].as_py()
        windows = Windows.from_row(part)
        answered = {model: self._answered(model, windows) for model in self._models}
        facts = json.loads(part.column("facts")[0].as_py())
        if self._causal is not None:
            table = self._predictions(windows, answered, part.column("texts")[0].as_py(), name)
            _write_table(storage.join(self._folder, PREDICTIONS_FOLDER, f"{number:09d}.parquet"), table)
        table = self._answers(windows, answered, name)
        output = _write_table(storage.join(self._folder, answers_name(number)), table)
        facts |= {"answers": table.num_rows, "windows": len(only_scored(windows).lengths), "output": output}
        CompletedPieces(self._folder, CHUNKS).add(number, facts)
        return {"number": number, "rows": facts["rows"], "bad": sum(facts["bad"].values())}

    def _answered(self, model: str, windows: Windows) -> AnswerScores:
        return score_windows(
            self._models[model],
            windows,
            pad_id=vocabulary_of(self._tokenizer_json).pad,
            precision=self._config.precision,
            max_rows=self._config.batch_size,
            max_tokens=MAX_BATCH_TOKENS,
            left_to_right=self._data.left_to_right,
        )

    def _answers(self, windows: Windows, answered: dict[str, AnswerScores], name: str) -> pa.Table:
        """One row for each answer that is scored: the hand-over for people and for the summary."""
        keep = windows.scored.astype(bool)
        columns: Values = {
            "file": pa.array([name] * int(keep.sum()), pa.string()),
            "row": windows.row[keep],
            "mask": windows.mask[keep],
            "pieces": windows.pieces[keep],
        }
        for model, found in answered.items():
            best = [self._tokens(found.best[start:end].tolist()) for start, end in _spans(windows)]
            columns |= {
                f"{model}_rank": found.ranks[keep],
                f"{model}_loss": found.losses[keep],
                f"{model}_left_to_right_rank": found.left_to_right_ranks[keep],
                f"{model}_left_to_right_loss": found.left_to_right_losses[keep],
                f"{model}_best": pa.array(
                    [tokens for tokens, kept in zip(best, keep, strict=True) if kept], pa.list_(pa.string())
                ),
            }
        if len(answered) == 2:
            first, second = (found.best for found in answered.values())
            same = np.concatenate([[0], (first == second).cumsum()])
            columns["same_best"] = (same[windows.bounds[1:]] - same[windows.bounds[:-1]])[keep]
        return pa.table(columns)

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        tokenizer = build_tokenizer(self._tokenizer_json)
        return [tokenizer.id_to_token(token) or "" for token in ids]

    def _predictions(
        self, windows: Windows, answered: dict[str, AnswerScores], texts: Sequence[Sequence[str]], name: str
    ) -> pa.Table:
        """The texts as each model fills them, and their perplexity under the causal model."""
        assert self._causal is not None
        rows, tokenizer = np.unique(windows.row), build_tokenizer(self._tokenizer_json)
        columns: Values = {"file": pa.array([name] * len(rows), pa.string()), "row": rows}
        for model, found in answered.items():
            words = tokenizer.decode_batch([found.best[start:end].tolist() for start, end in _spans(windows)])
            from_row = np.split(np.array(words, object), np.searchsorted(windows.row, rows[1:])) if len(rows) else []
            whole = [fill_masks(fragments, list(answers)) for fragments, answers in zip(texts, from_row, strict=True)]
            columns[f"{model}_text"] = pa.array(whole, pa.string())
            columns[f"{model}_perplexity"] = pa.array(self._causal.of(whole), pa.float64())
        return pa.table(columns)


def _spans(windows: Windows) -> list[tuple[int, int]]:
    bounds: list[int] = windows.bounds.tolist()
    return list(pairwise(bounds))


def _write_table(uri: str, table: pa.Table) -> Values:
    """Write a table; return what the manifest says of the file."""
    with storage.FileWriter(uri) as file:
        pq.write_table(table, pa.PythonFile(file, mode="w"))
    return {"rows": table.num_rows, "bytes": file.bytes, "sha256": file.sha256}
