"""Examples as token ids: a mask token for each word piece of an answer, long texts cut to a window around each mask."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.evaluation.fill_mask.examples import MaskedExample, bad_row
from distilray.formats.bad_rows import BadRow
from distilray.pretraining_data.tokenizer import Vocabulary, build_tokenizer, vocabulary_of

Ints = NDArray[np.int64]

_SPECIALS = 2  # [CLS] and [SEP] of each window
_UNSCORED = 0  # stands for the label where there is no answer


@dataclass(frozen=True)
class Windows:
    """What a model reads, and what is asked at its masks; all arrays are int64.

    The answers of a window follow each other, and windows stand in the order of their answers.

    Attributes:
        ids: (tokens,) of all windows, one after the other.
        offsets: (windows + 1,) where each begins in `ids`.
        window: (answers,) in which window each answer is asked for.
        start: (answers,) place of its first mask token in that window.
        labels: (pieces,) the true ids of all answers, one after the other.
        bounds: (answers + 1,) where each answer begins in `labels`.
        scored: (answers,) 0 for a mask that is only filled.
        row, mask: (answers,) row in the file, and number of the mask in its text, from 0.
    """

    ids: Ints
    offsets: Ints
    window: Ints
    start: Ints
    labels: Ints
    bounds: Ints
    scored: Ints
    row: Ints
    mask: Ints

    @property
    def lengths(self) -> Ints:
        """(windows,) tokens of each."""
        return np.diff(self.offsets)

    @property
    def pieces(self) -> Ints:
        """(answers,) word pieces of each."""
        return np.diff(self.bounds)

    def to_columns(self) -> dict[str, pa.Array]:
        """One row of lists, for Arrow."""
        return {field.name: pa.array([getattr(self, field.name)], pa.list_(pa.int64())) for field in fields(self)}

    @classmethod
    def from_row(cls, table: pa.Table) -> "Windows":
        """The windows of a table of one row."""
        return cls(**{field.name: table.column(field.name)[0].values.to_numpy() for field in fields(cls)})


class _Builder:
    """Collects windows and answers."""

    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self._vocabulary, self._room = vocabulary, max_length - _SPECIALS
        self._ids: list[int] = []
        self._offsets, self._bounds, self._labels = [0], [0], list[int]()
        self._answers: list[tuple[int, int, int, int, int]] = []  # window, start, scored, row, mask

    def add(self, row: int, fragments: Sequence[Sequence[int]], labels: Sequence[Sequence[int] | None]) -> None:
        """Adds the text of a row; a mask without labels is shown as one mask token."""
        body, starts = list(fragments[0]), []
        for behind, answer in zip(fragments[1:], labels, strict=True):
            starts.append(len(body))
            body += [self._vocabulary.mask] * (len(answer) if answer is not None else 1)
            body += behind
        if len(body) <= self._room:
            self._add_window(body)
        for mask, (start, answer) in enumerate(zip(starts, labels, strict=True)):
            wanted = answer if answer is not None else [_UNSCORED]
            left = 0
            if len(body) > self._room:
                # As near the middle as the ends of the text allow.
                left = min(max(0, start - (self._room - len(wanted)) // 2), len(body) - self._room)
                self._add_window(body[left : left + self._room])
            place = start - left + 1  # behind [CLS]
            self._answers.append((len(self._offsets) - 2, place, int(answer is not None), row, mask))
            self._labels += wanted
            self._bounds.append(len(self._labels))

    def _add_window(self, body: Sequence[int]) -> None:
        self._ids += [self._vocabulary.cls, *body, self._vocabulary.sep]
        self._offsets.append(len(self._ids))

    def build(self) -> Windows:
        """All that was added."""
        window, start, scored, row, mask = np.array(self._answers, np.int64).reshape(-1, 5).T
        lists = (self._ids, self._offsets, self._labels, self._bounds)
        ids, offsets, labels, bounds = (np.array(found, np.int64) for found in lists)
        return Windows(ids, offsets, window, start, labels, bounds, scored, row, mask)


def encode_examples(
    examples: Sequence[MaskedExample], tokenizer_json: str, *, max_length: int, fill_all: bool = False
) -> tuple[Windows, list[MaskedExample], list[BadRow]]:
    """The windows of examples, the examples that are in them, and those that cannot be.

    Args:
        examples: of one file.
        tokenizer_json: of the models, from `read_tokenizer`.
        max_length: tokens of a window, special ones included.
        fill_all: asks also at masks that are not scored.
    """
    vocabulary = vocabulary_of(tokenizer_json)
    fragments = _encoded([example.fragments for example in examples], tokenizer_json)
    answers = _encoded([example.answers for example in examples], tokenizer_json)
    builder, kept, bad = _Builder(vocabulary, max_length), list[MaskedExample](), list[BadRow]()
    for example, of_text, of_answers in zip(examples, fragments, answers, strict=True):
        fault = _fault(of_answers, vocabulary, max_length)
        if fault is not None:
            bad.append(bad_row(example.row, *fault))
            continue
        unscored = len(of_text) - 1 - len(of_answers)
        builder.add(example.row, of_text, [*of_answers, *[None] * unscored])
        kept.append(example)
    windows = builder.build()
    return windows if fill_all else only_scored(windows), kept, bad


def only_scored(windows: Windows) -> Windows:
    """The windows without the answers that are only filled, and without windows that nothing is asked in."""
    if windows.scored.all():
        return windows
    keep = windows.scored.astype(bool)
    used, renumbered = np.unique(windows.window[keep], return_inverse=True)
    lengths = windows.lengths[used]
    token_of = np.repeat(np.isin(np.arange(len(windows.lengths)), used), windows.lengths)
    return Windows(
        windows.ids[token_of],
        np.concatenate([[0], lengths.cumsum()]),
        renumbered,
        windows.start[keep],
        windows.labels[np.repeat(keep, windows.pieces)],
        np.concatenate([[0], windows.pieces[keep].cumsum()]),
        windows.scored[keep],
        windows.row[keep],
        windows.mask[keep],
    )


def _encoded(texts: Sequence[Sequence[str]], tokenizer_json: str) -> list[list[list[int]]]:
    """Ids of strings, without special tokens; `[MASK]` splits a text before all else, so its fragments go alone."""
    flat = [text for of_one in texts for text in of_one]
    found: Any = iter(build_tokenizer(tokenizer_json).encode_batch_fast(flat, add_special_tokens=False))
    return [[next(found).ids for _ in of_one] for of_one in texts]


def _fault(answers: Sequence[Sequence[int]], vocabulary: Vocabulary, max_length: int) -> tuple[str, str] | None:
    for number, answer in enumerate(answers, 1):
        if not answer:
            return "answer_empty", f"answer {number} has no token"
        if vocabulary.unk in answer:
            return "answer_unknown", f"answer {number} holds a token that is not in the vocabulary"
        if any(token in vocabulary.special for token in answer):
            return "answer_special", f"answer {number} holds a special token"
        if len(answer) > max_length - _SPECIALS:
            return "answer_too_long", f"answer {number} has {len(answer):,} tokens, a window {max_length:,}"
    return None
