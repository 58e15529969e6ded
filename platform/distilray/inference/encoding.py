"""Encoding of texts as token ids and padded batches, with a typed error for texts that cannot be used."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilray.errors import InputError

TextProblem = Literal["no_mask", "too_long", "too_many_masks", "encoding", "targets"]


class InputTextError(InputError):
    """Raised for a text or target that cannot be used. The message names its index and the fix, never its content.

    Attributes:
        kind: category of the problem, for callers that handle each category differently.
        index: position of the text, or of the target, in its list.
    """

    def __init__(self, kind: TextProblem, index: int, problem: str, *, target: bool = False) -> None:
        super().__init__(f"targets[{index}]: {problem}" if target else f"text {index}: {problem}")
        self.kind, self.index = kind, index
        self._problem, self._target = problem, target

    def offset_by(self, first: int) -> "InputTextError":
        """Return the same error for a longer list of texts, in which the current list starts at index `first`."""
        return self if self._target else InputTextError(self.kind, first + self.index, self._problem)


class TextEncoder:
    """Encodes texts with their special tokens, as the pipelines of `transformers` do. Thread-safe.

    Args:
        tokenizer: transformers tokenizer.
        max_length: maximum number of tokens of the model.
    """

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self._max_length = max_length
        # The wrapper sets padding and truncation on every call, which is not thread-safe; so use the backend.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()

    def token_ids(self, texts: Sequence[str], *, target: bool = False) -> list[list[int]]:
        """Return the ids of every text. Targets, which are candidate words, are encoded without special tokens.

        Raises:
            InputTextError: a text is not valid Unicode.
        """
        for index, text in enumerate(texts):
            _check_encodable(index, text, target=target)
        return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=not target)]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, or None if the vocabulary does not contain it."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def check_length(self, index: int, input_ids: Sequence[int]) -> None:
        """Check that a text fits into the model.

        Raises:
            InputTextError: the text is too long.
        """
        if len(input_ids) > self._max_length:
            problem = f"{len(input_ids)} tokens, but the model accepts at most {self._max_length}; shorten it"
            raise InputTextError("too_long", index, problem)


def _check_encodable(index: int, text: str, *, target: bool = False) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = "contains half of a surrogate pair, which is not text; send the whole character"
        raise InputTextError("encoding", index, problem, target=target) from None


def length_sorted_batches(lengths: Sequence[int], *, max_rows: int, max_tokens: int) -> list[list[int]]:
    """Return batches of text indices, with texts of similar length together, the longest first.

    Args:
        lengths: number of tokens of each text.
        max_rows: maximum number of texts in a batch.
        max_tokens: maximum number of tokens in a batch, including padding. A longer text is a batch by itself.
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
    """Return `input_ids` and `attention_mask` of texts, (texts, length of the longest) each."""
    input_ids = np.full((len(rows), max(map(len, rows))), pad_id, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        attention_mask[index, : len(row)] = 1
    return input_ids, attention_mask
