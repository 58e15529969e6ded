"""Fill-mask: the most probable tokens at the masks of a text, as in the pipeline of `transformers` but much faster."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distilray.inference.backends import MaskedLMBackend, open_for_serving
from distilray.inference.decoding import TokenDecoder
from distilray.inference.encoding import InputTextError, TextEncoder, length_sorted_batches, pad_batch
from distilray.inference.model_folder import check_model_folder, load_tokenizer, revision_hash
from distilray.inference.tasks.base import Task, TextQuery
from distilray.models.architectures import architecture_of

MAX_ROWS = 32
MAX_TOKENS = 4096
_MAX_MASKS = 128  # per forward pass; limits the (masks, vocabulary) probabilities to about 16 MB
_CANDIDATE_BYTES = 100  # of a candidate in JSON, without its filled text
# Target lists whose ids are cached: a request is encoded in several parts, and clients repeat their targets.
_CACHED_TARGETS = 8
_LISTED_TARGETS = 10  # unusable targets that an error message lists


@dataclass(frozen=True)
class FillMaskQuery(TextQuery):
    """One text and the parameters of its candidates.

    Attributes:
        text: contains the mask token of the model at least once.
        top_k: candidates per mask; fewer are returned if there are fewer targets or tokens.
        targets: restrict the candidates to these words. After normalization each must be a single vocabulary token.
        sequences: True to include the filled text in candidates. False leaves `sequence` empty, which is faster.
    """

    top_k: int = 5
    targets: tuple[str, ...] | None = None
    sequences: bool = True


@dataclass(frozen=True)
class EncodedFillMaskQuery:
    """A query as token ids.

    Attributes:
        input_ids: unpadded, including special tokens.
        mask_positions: indices of the masks in `input_ids`, in ascending order; at least one.
        target_ids: vocabulary ids that the candidates are restricted to.
    """

    query: FillMaskQuery
    input_ids: tuple[int, ...]
    mask_positions: tuple[int, ...]
    target_ids: tuple[int, ...] | None

    @property
    def candidates(self) -> int:
        """Number of requested candidates over all masks."""
        allowed = self.query.top_k if self.target_ids is None else min(self.query.top_k, len(self.target_ids))
        return len(self.mask_positions) * allowed


class Candidate(NamedTuple):
    """A token for a mask, with the field names of the pipeline of `transformers`."""

    score: float
    token: int
    token_str: str
    sequence: str


FillMaskAnswer = list[list[Candidate]]
"""Candidates of each mask of a text, in order of position, the most probable first."""


FillMaskPrediction = list[tuple[list[float], list[int]]]
"""Scores and vocabulary ids for each mask of a text, in order of position, the most probable first."""


class FillMask(Task[FillMaskQuery, EncodedFillMaskQuery, FillMaskPrediction, FillMaskAnswer]):
    """Masked language model with its tokenizer. Create it with `FillMask.load`.

    Thread-safe; torch uses the number of threads that is set in the calling thread.
    """

    name = "fill-mask"

    def __init__(self, model: MaskedLMBackend, tokenizer: Any, *, revision: str) -> None:
        architecture = architecture_of(model.config).masked_lm
        super().__init__(architecture=architecture, revision=revision, dtype=model.dtype)
        self.max_length: int = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        self._model = model
        self._pad_id: int = tokenizer.pad_token_id or 0
        self.mask_token: str = tokenizer.mask_token
        self._mask_token_id: int = tokenizer.mask_token_id
        self._unknown_token_id: int | None = tokenizer.unk_token_id
        self._encoder = TextEncoder(tokenizer, max_length=self.max_length)
        self._target_ids = functools.lru_cache(_CACHED_TARGETS)(self._encode_targets)
        self._decoder = TokenDecoder(tokenizer, pad_id=self._pad_id)
        vocabulary = tokenizer.get_vocab()
        # Indexed by id, including the space before each token.
        self._token_bytes = [1] * (max(vocabulary.values(), default=0) + 1)
        for token, token_id in vocabulary.items():
            self._token_bytes[token_id] = len(token.encode()) + 1

    @classmethod
    def load(cls, model_dir: str, *, precision: str = "auto", threads: int | None = None) -> "FillMask":
        """Load a masked language model from a local folder, without running any code from it.

        Args:
            model_dir: folder in the layout of transformers (config, tokenizer, and weights as safetensors or
                `model.onnx`), or a run folder that contains one as `model/`.
            precision: "fp32", "bf16", or "auto", which means fp32. An ONNX model only accepts "auto".
            threads: threads of an ONNX model; torch uses those of the calling thread.

        Raises:
            InputError: a file is missing or invalid.
        """
        model_dir = check_model_folder(model_dir)
        tokenizer, revision = load_tokenizer(model_dir), revision_hash(model_dir)
        return cls(open_for_serving(model_dir, precision=precision, threads=threads), tokenizer, revision=revision)

    @property
    def probe(self) -> FillMaskQuery:
        """Short text with one mask."""
        return FillMaskQuery(f"a {self.mask_token} probe.", top_k=1)

    def info(self) -> dict[str, object]:
        """Return the properties that clients can query."""
        return {**super().info(), "mask_token": self.mask_token, "max_length": self.max_length}

    def fill(
        self, texts: Sequence[str], *, top_k: int = 5, targets: Sequence[str] | None = None
    ) -> list[FillMaskAnswer]:
        """Return the candidates for every mask of every text, in the order of the texts.

        Raises:
            InputTextError: a text has no mask, is too long or cannot be encoded; or a target is unusable.
        """
        words = None if targets is None else tuple(targets)
        return self.fill_encoded(self.encode([FillMaskQuery(text, top_k, words) for text in texts]))

    def encode(self, queries: Sequence[FillMaskQuery]) -> list[EncodedFillMaskQuery]:
        """Return the queries as token ids. Targets that several queries share are tokenized once.

        Raises:
            InputTextError: a query cannot be used, or its targets are not tokens; reports the first one.
        """
        texts = self._encoder.token_ids([query.text for query in queries])
        distinct = {query.targets for query in queries if query.targets is not None}
        target_ids = {targets: self._target_ids(targets) for targets in distinct}
        return [
            self._encode_query(index, query, input_ids, None if query.targets is None else target_ids[query.targets])
            for index, (query, input_ids) in enumerate(zip(queries, texts, strict=True))
        ]

    def fill_encoded(self, encoded: Sequence[EncodedFillMaskQuery]) -> list[FillMaskAnswer]:
        """Return the candidates for every mask of every query. Each query has its own `top_k` and targets."""
        return [self.decode(query, best) for query, best in zip(encoded, self.run(encoded), strict=True)]

    @torch.inference_mode()
    def run(self, encoded: Sequence[EncodedFillMaskQuery]) -> list[FillMaskPrediction]:
        """Run the model, and return the scores and ids of the best tokens for every mask of every query."""
        predictions: list[FillMaskPrediction] = [[] for _ in encoded]
        lengths = [len(query.input_ids) for query in encoded]
        for batch in length_sorted_batches(lengths, max_rows=MAX_ROWS, max_tokens=MAX_TOKENS):
            for indices in _split_by_masks(batch, encoded):
                best = self._best_tokens([encoded[index] for index in indices])
                for index in indices:
                    predictions[index] = [next(best) for _ in encoded[index].mask_positions]
        return predictions

    def decode(self, encoded: EncodedFillMaskQuery, prediction: FillMaskPrediction) -> FillMaskAnswer:
        """Return the candidates of a query as words and filled texts."""
        return [self._candidates(encoded, mask, *best) for mask, best in enumerate(prediction)]

    def response_bytes(self, encoded: EncodedFillMaskQuery) -> int:
        """Estimate the size of the JSON answer to a query before computing it."""
        sequence = sum(map(self._token_bytes.__getitem__, encoded.input_ids)) if encoded.query.sequences else 0
        return encoded.candidates * (_CANDIDATE_BYTES + sequence)

    def _encode_targets(self, targets: Sequence[str]) -> tuple[int, ...]:
        """Return the vocabulary ids of the targets, without duplicates."""
        if not targets:
            raise InputTextError("targets", 0, "missing; give at least one word", target=True)
        encoded = self._encoder.token_ids(targets, target=True)
        tokens = [self._single_token(target, ids) for target, ids in zip(targets, encoded, strict=True)]
        unknown = [index for index, token in enumerate(tokens) if token is None]
        if unknown:
            others = ", ".join(map(str, unknown[1:_LISTED_TARGETS]))
            problem = "not a single token of the vocabulary; replace or remove it"
            problem += f" (the same for {others}{', ...' if len(unknown) > _LISTED_TARGETS else ''})" if others else ""
            raise InputTextError("targets", unknown[0], problem, target=True)
        # A set, as in the pipeline: its order decides between candidates with equal scores.
        return tuple({token for token in tokens if token is not None})

    def _single_token(self, target: str, ids: Sequence[int]) -> int | None:
        token = self._encoder.token_id(target)
        if token is None and len(ids) == 1 and ids[0] != self._unknown_token_id:
            token = ids[0]
        return token

    def _encode_query(
        self, index: int, query: FillMaskQuery, input_ids: Sequence[int], target_ids: tuple[int, ...] | None
    ) -> EncodedFillMaskQuery:
        masks = tuple(position for position, token in enumerate(input_ids) if token == self._mask_token_id)
        if not masks:
            raise InputTextError("no_mask", index, f"no mask token; write {self.mask_token} where a word is wanted")
        self._encoder.check_length(index, input_ids)
        return EncodedFillMaskQuery(query, tuple(input_ids), masks, target_ids)

    def _best_tokens(self, queries: Sequence[EncodedFillMaskQuery]) -> Iterator[tuple[list[float], list[int]]]:
        """Yield the scores and ids of the best allowed tokens for every mask, in order."""
        input_ids, attention_mask = pad_batch([query.input_ids for query in queries], self._pad_id)
        length = input_ids.shape[1]
        index = [row * length + position for row, query in enumerate(queries) for position in query.mask_positions]
        logits = self._model.logits_at(input_ids, attention_mask, np.array(index))
        return _best_allowed(
            [query for query in queries for _ in query.mask_positions], torch.from_numpy(logits).softmax(-1)
        )

    def _candidates(
        self, encoded: EncodedFillMaskQuery, mask: int, scores: Sequence[float], tokens: Sequence[int]
    ) -> list[Candidate]:
        sequences = [""] * len(tokens)
        if encoded.query.sequences:
            position, ids = encoded.mask_positions[mask], encoded.input_ids
            # As in the pipeline: with several masks, special tokens are kept, as the other masks would disappear.
            skip_special = len(encoded.mask_positions) == 1
            sequences = self._decoder.texts(ids[:position], tokens, ids[position + 1 :], skip_special=skip_special)
        return [
            Candidate(score, token, self._decoder.token(token), sequence)
            for score, token, sequence in zip(scores, tokens, sequences, strict=True)
        ]


def _split_by_masks(batch: Sequence[int], encoded: Sequence[EncodedFillMaskQuery]) -> Iterator[list[int]]:
    """Split a batch so that the logits of each part fit in memory."""
    part: list[int] = []
    masks = 0
    for index in batch:
        masks += len(encoded[index].mask_positions)
        if part and masks > _MAX_MASKS:
            yield part
            part, masks = [], len(encoded[index].mask_positions)
        part.append(index)
    yield part


def _best_allowed(
    queries: Sequence[EncodedFillMaskQuery], probabilities: Tensor
) -> Iterator[tuple[list[float], list[int]]]:
    """Yield the scores and ids of the best allowed tokens for every row of probabilities (masks, vocabulary)."""
    vocabulary = probabilities.shape[-1]
    unrestricted_top_k = max((query.query.top_k for query in queries if query.target_ids is None), default=1)
    values, ids = probabilities.topk(min(unrestricted_top_k, vocabulary))
    for query, row_values, row_ids, row in zip(queries, values.tolist(), ids.tolist(), probabilities, strict=True):
        top_k = query.query.top_k
        if query.target_ids is None:
            yield row_values[:top_k], row_ids[:top_k]
        else:
            best = row[list(query.target_ids)].topk(min(top_k, len(query.target_ids)))
            yield best.values.tolist(), [query.target_ids[index] for index in best.indices.tolist()]
