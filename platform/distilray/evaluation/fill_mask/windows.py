"""Examples as token ids, with a mask token for each word piece of an answer.

A text that is longer than the model's input gets a separate window around each of its masks.
"""

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
_UNSCORED = 0  # label of a mask without an answer


@dataclass(frozen=True)
class Windows:
    """Model inputs and the answers to predict in them; all arrays are int64.

    Answers are sorted by window.

    Attributes:
        ids: (tokens,) token ids of all windows, concatenated.
        offsets: (windows + 1,) start of each window in `ids`.
        window: (answers,) index of the window that contains the answer.
        start: (answers,) position of the answer's first mask token in that window.
        labels: (pieces,) true token ids of all answers, concatenated.
        bounds: (answers + 1,) start of each answer in `labels`.
        scored: (answers,) 0 for a mask that is filled but not scored, else 1.
        row: (answers,) row in the file.
        mask: (answers,) index of the mask in its text, from 0.
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
        """(windows,) number of tokens."""
        return np.diff(self.offsets)

    @property
    def pieces(self) -> Ints:
        """(answers,) number of word pieces."""
        return np.diff(self.bounds)

    def to_columns(self) -> dict[str, pa.Array]:
        """Return the arrays as the columns of an Arrow table with one row."""
        return {field.name: pa.array([getattr(self, field.name)], pa.list_(pa.int64())) for field in fields(self)}

    @classmethod
    def from_row(cls, table: pa.Table) -> "Windows":
        """Create windows from a table with one row."""
        return cls(**{field.name: table.column(field.name)[0].values.to_numpy() for field in fields(cls)})


class _WindowsBuilder:
    def __init__(self, vocabulary: Vocabulary, max_length: int) -> None:
        self._vocabulary, self._max_body = vocabulary, max_length - _SPECIALS
        self._ids: list[int] = []
        self._offsets, self._bounds, self._labels = [0], [0], list[int]()
        self._answers: list[tuple[int, int, int, int, int]] = []  # window, start, scored, row, mask

    def add(self, row: int, fragments: Sequence[Sequence[int]], labels: Sequence[Sequence[int] | None]) -> None:
        """Add the text of a row; a mask without labels becomes one mask token."""
        body, starts = list(fragments[0]), []
        for fragment, answer in zip(fragments[1:], labels, strict=True):
            starts.append(len(body))
            body += [self._vocabulary.mask] * (len(answer) if answer is not None else 1)
            body += fragment
        if len(body) <= self._max_body:
            self._add_window(body)
        for mask, (start, answer) in enumerate(zip(starts, labels, strict=True)):
            answer_labels = answer if answer is not None else [_UNSCORED]
            left = 0
            if len(body) > self._max_body:
                # Center the answer, unless the window would extend beyond the text.
                left = min(max(0, start - (self._max_body - len(answer_labels)) // 2), len(body) - self._max_body)
                self._add_window(body[left : left + self._max_body])
            position = start - left + 1  # after [CLS]
            self._answers.append((len(self._offsets) - 2, position, int(answer is not None), row, mask))
            self._labels += answer_labels
            self._bounds.append(len(self._labels))

    def _add_window(self, body: Sequence[int]) -> None:
        self._ids += [self._vocabulary.cls, *body, self._vocabulary.sep]
        self._offsets.append(len(self._ids))

    def build(self) -> Windows:
        window, start, scored, row, mask = np.array(self._answers, np.int64).reshape(-1, 5).T
        lists = (self._ids, self._offsets, self._labels, self._bounds)
        ids, offsets, labels, bounds = (np.array(values, np.int64) for values in lists)
        return Windows(ids, offsets, window, start, labels, bounds, scored, row, mask)


def encode_examples(
    examples: Sequence[MaskedExample], tokenizer_json: str, *, max_length: int, fill_all: bool = False
) -> tuple[Windows, list[MaskedExample], list[BadRow]]:
    """Encode examples as windows; also return the encoded examples and the rows that cannot be encoded.

    Args:
        examples: examples of one file.
        tokenizer_json: tokenizer of the models, from `read_tokenizer`.
        max_length: maximum number of tokens in a window, including special tokens.
        fill_all: include masks that are not scored, to fill them too.
    """
    vocabulary = vocabulary_of(tokenizer_json)
    fragments = _encode_each([example.fragments for example in examples], tokenizer_json)
    answers = _encode_each([example.answers for example in examples], tokenizer_json)
    builder, kept, bad = _WindowsBuilder(vocabulary, max_length), list[MaskedExample](), list[BadRow]()
    for example, fragment_ids, answer_ids in zip(examples, fragments, answers, strict=True):
        problem = _answer_problem(answer_ids, vocabulary, max_length)
        if problem is not None:
            bad.append(bad_row(example.row, *problem))
            continue
        unscored = len(fragment_ids) - 1 - len(answer_ids)
        builder.add(example.row, fragment_ids, [*answer_ids, *[None] * unscored])
        kept.append(example)
    windows = builder.build()
    return windows if fill_all else only_scored(windows), kept, bad


def only_scored(windows: Windows) -> Windows:
    """Drop the answers that are not scored, and windows without a scored answer."""
    if windows.scored.all():
        return windows
    keep = windows.scored.astype(bool)
    used, renumbered = np.unique(windows.window[keep], return_inverse=True)
    lengths = windows.lengths[used]
    is_kept_token = np.repeat(np.isin(np.arange(len(windows.lengths)), used), windows.lengths)
    return Windows(
        windows.ids[is_kept_token],
        np.concatenate([[0], lengths.cumsum()]),
        renumbered,
        windows.start[keep],
        windows.labels[np.repeat(keep, windows.pieces)],
        np.concatenate([[0], windows.pieces[keep].cumsum()]),
        windows.scored[keep],
        windows.row[keep],
        windows.mask[keep],
    )


def _encode_each(examples: Sequence[Sequence[str]], tokenizer_json: str) -> list[list[list[int]]]:
    """Tokenize each string without special tokens.

    Fragments can be encoded separately, because a tokenizer splits a text at `[MASK]` before any other step.
    """
    strings = [string for example in examples for string in example]
    encodings: Any = iter(build_tokenizer(tokenizer_json).encode_batch_fast(strings, add_special_tokens=False))
    return [[next(encodings).ids for _ in example] for example in examples]


def _answer_problem(
    answers: Sequence[Sequence[int]], vocabulary: Vocabulary, max_length: int
) -> tuple[str, str] | None:
    """Return the reason and details if an answer cannot be scored, else None."""
    for number, answer in enumerate(answers, 1):
        if not answer:
            return "answer_empty", f"answer {number} has no token"
        if vocabulary.unk in answer:
            return "answer_unknown", f"answer {number} contains a token that is not in the vocabulary"
        if any(token in vocabulary.special for token in answer):
            return "answer_special", f"answer {number} contains a special token"
        if len(answer) > max_length - _SPECIALS:
            return "answer_too_long", f"answer {number} has {len(answer):,} tokens; a window has {max_length:,}"
    return None
