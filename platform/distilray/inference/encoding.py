"""Texts with masks to token ids, with a typed error for every text or target that cannot be used."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distilray.inference.text_errors import InputTextError

# Lists of targets whose ids are kept: a request is encoded in several parts, and clients repeat their targets.
_CACHED_TARGETS = 8
_NAMED_TARGETS = 10


@dataclass(frozen=True)
class Query:
    """One text and what is asked of it.

    Attributes:
        text: holds the model's mask token at least once.
        top_k: candidates per mask; fewer come back when there are fewer targets or words.
        targets: only these tokens are candidates; each must be a single token of the vocabulary once normalized.
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

    @property
    def candidates(self) -> int:
        """Number of candidates asked for, over all masks."""
        allowed = self.query.top_k if self.target_ids is None else min(self.query.top_k, len(self.target_ids))
        return len(self.mask_positions) * allowed


class TextEncoder:
    """Turns queries into token ids exactly as `transformers`' fill-mask pipeline does; threads may share it."""

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self.mask_token: str = tokenizer.mask_token
        self.max_length = max_length
        self._mask_token_id: int = tokenizer.mask_token_id
        self._unknown_token_id: int | None = tokenizer.unk_token_id
        # The backend, because the wrapper sets padding and truncation on every call, which two threads must not do.
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()
        self._cached_target_ids = functools.lru_cache(_CACHED_TARGETS)(self.target_ids)

    def encode(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        """The queries as token ids; targets that queries share are tokenized once.

        Raises:
            InputTextError: for the first query that cannot be filled, or targets that are not tokens.
        """
        for index, query in enumerate(queries):
            _check_encodable(index, query.text)
        distinct = {query.targets for query in queries if query.targets is not None}
        target_ids = {targets: self._cached_target_ids(targets) for targets in distinct}
        encodings = self._backend.encode_batch_fast([query.text for query in queries])
        return [
            self._encoded(index, query, encoding.ids, None if query.targets is None else target_ids[query.targets])
            for index, (query, encoding) in enumerate(zip(queries, encodings, strict=True))
        ]

    def target_ids(self, targets: Sequence[str]) -> tuple[int, ...]:
        """Vocabulary ids of the targets, without duplicates.

        Raises:
            InputTextError: no target, or one that is not a single token of the vocabulary.
        """
        if not targets:
            raise InputTextError("targets", 0, "missing; give at least one word", target=True)
        for index, target in enumerate(targets):
            _check_encodable(index, target, target=True)
        pieces = [encoding.ids for encoding in self._backend.encode_batch_fast(targets, add_special_tokens=False)]
        tokens = [self._single_token(target, ids) for target, ids in zip(targets, pieces, strict=True)]
        unknown = [index for index, token in enumerate(tokens) if token is None]
        if unknown:
            others = ", ".join(map(str, unknown[1:_NAMED_TARGETS]))
            problem = "not a single token of the vocabulary; replace or remove it"
            problem += f" (the same for {others}{', ...' if len(unknown) > _NAMED_TARGETS else ''})" if others else ""
            raise InputTextError("targets", unknown[0], problem, target=True)
        # The order of candidates with equal scores, as in the pipeline.
        return tuple({token for token in tokens if token is not None})

    def _single_token(self, target: str, ids: Sequence[int]) -> int | None:
        token: int | None = self._backend.token_to_id(target)
        if token is None and len(ids) == 1 and ids[0] != self._unknown_token_id:
            token = ids[0]
        return token

    def _encoded(
        self, index: int, query: Query, input_ids: Sequence[int], target_ids: tuple[int, ...] | None
    ) -> EncodedQuery:
        masks = tuple(position for position, token in enumerate(input_ids) if token == self._mask_token_id)
        if not masks:
            raise InputTextError("no_mask", index, f"no mask token; write {self.mask_token} where a word is wanted")
        if len(input_ids) > self.max_length:
            problem = f"{len(input_ids)} tokens, and the model reads {self.max_length}; shorten it"
            raise InputTextError("too_long", index, problem)
        return EncodedQuery(query, tuple(input_ids), masks, target_ids)


def _check_encodable(index: int, text: str, *, target: bool = False) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = "contains half of a surrogate pair, which is not text; send the whole character"
        raise InputTextError("encoding", index, problem, target=target) from None
