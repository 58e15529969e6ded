"""Texts with masks to token ids, with a typed error for every text that cannot be filled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distilray.inference.text_errors import InputTextError


@dataclass(frozen=True)
class Query:
    """One text and what is asked of it.

    Attributes:
        text: holds the model's mask token at least once.
        top_k: candidates per mask; fewer come back when there are fewer targets or words.
        targets: only these tokens are candidates; a word that is not in the vocabulary counts as its first piece.
        sequences: whether candidates carry the filled text; without it `sequence` is empty and less work is done.
    """

    text: str
    top_k: int = 5
    targets: tuple[str, ...] | None = None
    sequences: bool = True


@dataclass(frozen=True)
class EncodedQuery:
    """A query as token ids.

    Attributes:
        input_ids: with the special tokens, unpadded.
        mask_positions: indices of the masks in `input_ids`, ascending, at least one.
        target_ids: vocabulary ids that the candidates are limited to.
    """

    query: Query
    input_ids: tuple[int, ...]
    mask_positions: tuple[int, ...]
    target_ids: tuple[int, ...] | None


class TextEncoder:
    """Turns queries into token ids exactly as `transformers`' fill-mask pipeline does; holds no mutable state."""

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self.mask_token: str = tokenizer.mask_token
        self.max_length = max_length
        self._mask_token_id: int = tokenizer.mask_token_id
        # The backend, because the wrapper sets padding and truncation on every call, which two threads must not do.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()

    def encode(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        """The queries as token ids.

        Raises:
            InputTextError: for the first query that cannot be filled.
        """
        for index, query in enumerate(queries):
            _check_encodable(index, (query.text, *(query.targets or ())))
        encodings = self._backend.encode_batch_fast([query.text for query in queries])
        return [
            self._encoded(index, query, encoding.ids)
            for index, (query, encoding) in enumerate(zip(queries, encodings, strict=True))
        ]

    def _encoded(self, index: int, query: Query, input_ids: Sequence[int]) -> EncodedQuery:
        masks = tuple(position for position, token in enumerate(input_ids) if token == self._mask_token_id)
        if not masks:
            raise InputTextError("no_mask", index, f"no mask token; write {self.mask_token} where a word is wanted")
        if len(input_ids) > self.max_length:
            problem = f"{len(input_ids)} tokens, and the model reads {self.max_length}; shorten it"
            raise InputTextError("too_long", index, problem)
        target_ids = None if query.targets is None else self._target_ids(index, query.targets)
        return EncodedQuery(query, tuple(input_ids), masks, target_ids)

    def _target_ids(self, index: int, targets: Sequence[str]) -> tuple[int, ...]:
        found: list[int] = []
        for target in targets:
            token = self._backend.token_to_id(target)
            pieces = [token] if token is not None else self._backend.encode(target, add_special_tokens=False).ids
            found += pieces[:1]
        if not found:
            raise InputTextError("targets", index, "no target is in the vocabulary; give at least one word")
        return tuple(set(found))  # as in the pipeline: candidates of equal score come in this order


def _check_encodable(index: int, texts: Sequence[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            problem = "holds half of a surrogate pair, which is not text; send the whole character"
            raise InputTextError("encoding", index, problem) from None
