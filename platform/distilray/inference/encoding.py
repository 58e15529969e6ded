"""Texts to token ids, with a typed error for every text that cannot be used.

Which texts go through the model together, and the arrays that they make.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError


def length_sorted_batches(lengths: Sequence[int], *, max_rows: int, max_tokens: int) -> list[list[int]]:
    """Indices of the texts, in batches of like length, the longest first.

    Args:
        lengths: tokens of each text.
        max_rows: texts in a batch.
        max_tokens: tokens in a batch, padding included; a text longer than that is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    rows = 0
    for index in order:
        if not batches or len(batches[-1]) >= rows:
            batches.append([])
            rows = max(1, min(max_rows, max_tokens // max(lengths[index], 1)))
        batches[-1].append(index)
    return batches


def pad_batch(
    rows: Sequence[Sequence[int] | NDArray[np.int64]], pad_id: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`input_ids` and `attention_mask`, (texts, length of the longest) each, of texts of different lengths."""
    input_ids = np.full((len(rows), max(map(len, rows))), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for place, row in enumerate(rows):
        input_ids[place, : len(row)] = row
        attention_mask[place, : len(row)] = 1
    return input_ids, attention_mask


TextProblem = Literal["no_mask", "too_long", "too_many_masks", "encoding", "targets"]


class InputTextError(InputError):
    """A text or target that cannot be used. The message names its index and the fix, and never quotes it.

    Attributes:
        kind: for callers that handle each kind differently.
        index: of the text, or of the target, in its list.
    """

    def __init__(self, kind: TextProblem, index: int, problem: str, *, target: bool = False) -> None:
        super().__init__(f"targets[{index}]: {problem}" if target else f"text {index}: {problem}")
        self.kind, self.index = kind, index
        self._problem, self._target = problem, target

    def offset_by(self, first: int) -> "InputTextError":
        """The same error in a longer list of texts, of which this one's begins at index `first`."""
        return self if self._target else InputTextError(self.kind, first + self.index, self._problem)


class TextEncoder:
    """Encodes texts as `transformers`' pipelines do, with the special tokens; threads may share it.

    Args:
        tokenizer: of transformers.
        max_length: tokens that the model reads.
    """

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self._max_length = max_length
        # The backend, because the wrapper sets padding and truncation on every call, which two threads must not do.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()

    def token_ids(self, texts: Sequence[str], *, target: bool = False) -> list[list[int]]:
        """Return the ids of every text; of targets, which are words to choose from, without special tokens.

        Raises:
            InputTextError: a text that is not valid Unicode.
        """
        for index, text in enumerate(texts):
            _check_encodable(index, text, target=target)
        return [each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=not target)]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def check_length(self, index: int, input_ids: Sequence[int]) -> None:
        """Check that the model can read a text.

        Raises:
            InputTextError: it is too long.
        """
        if len(input_ids) > self._max_length:
            problem = f"{len(input_ids)} tokens, and the model reads {self._max_length}; shorten it"
            raise InputTextError("too_long", index, problem)


def _check_encodable(index: int, text: str, *, target: bool = False) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = "contains half of a surrogate pair, which is not text; send the whole character"
        raise InputTextError("encoding", index, problem, target=target) from None
