"""Fill-mask: the most probable tokens at the masks of a text, equal to `transformers`' pipeline and far faster.

Only the mask positions go through the vocabulary head (at 20 tokens a text, the head at every position costs more than
half of the encoder), and texts of like length share a batch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distilray.inference.batching import length_sorted_batches
from distilray.inference.encoding import EncodedQuery, Query, TextEncoder
from distilray.inference.model_folder import check_model_folder, choose_dtype, load_tokenizer, revision_hash
from distilray.models.masked_lm import encode, load_masked_lm, vocabulary_logits

MAX_ROWS = 32
MAX_TOKENS = 4096
# Masks that go through the head at once: bounds the (masks, vocabulary) probabilities to some 16 MB.
_MASKS_AT_ONCE = 128


class Candidate(NamedTuple):
    """A token for a mask; the names are those of `transformers`' pipeline."""

    score: float
    token: int
    token_str: str
    sequence: str


Answer = list[list[Candidate]]
"""Per mask of a text, in order of position: the candidates, the most probable first."""


class FillMask:
    """A masked language model with its tokenizer; make one with `FillMask.load`.

    One thread may call `encode` while another calls `fill_encoded`; neither may be called by two threads at once.
    """

    def __init__(self, model: Any, tokenizer: Any, *, revision: str) -> None:
        self.revision = revision
        self.architecture: str = type(model).__name__
        self.dtype: torch.dtype = model.dtype
        self.max_length: int = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        self._model, self._tokenizer = model, tokenizer
        self._encoder = TextEncoder(tokenizer, max_length=self.max_length)
        self._token_strings: dict[int, str] = {}

    @classmethod
    def load(cls, model_dir: str, *, dtype: str = "auto", threads: int | None = None) -> "FillMask":
        """Loads a masked language model from a local folder; runs no code of the folder.

        Args:
            model_dir: layout of transformers: config, safetensors weights, tokenizer.
            dtype: "float32", "bfloat16", or "auto" (bf16 where the CPU computes in it).
            threads: torch threads of this process; left as they are when None.

        Raises:
            InputError: what is missing or unusable in the folder, and the fix.
        """
        check_model_folder(model_dir)
        if threads is not None:
            torch.set_num_threads(threads)
        model: Any = load_masked_lm(model_dir).to(choose_dtype(dtype))
        return cls(model, load_tokenizer(model_dir), revision=revision_hash(model_dir))

    @property
    def mask_token(self) -> str:
        """The token that marks a place to fill."""
        return self._encoder.mask_token

    def fill(self, texts: Sequence[str], *, top_k: int = 5, targets: Sequence[str] | None = None) -> list[Answer]:
        """Candidates for every mask of every text, in the order of the texts.

        Raises:
            InputTextError: a text without mask, too long, or not encodable; or no usable target.
        """
        limited = None if targets is None else tuple(targets)
        return self.fill_encoded(self.encode([Query(text, top_k, limited) for text in texts]))

    def encode(self, queries: Sequence[Query]) -> list[EncodedQuery]:
        """The queries as token ids; all errors of input are raised here, none by `fill_encoded`.

        Raises:
            InputTextError: for the first query that cannot be filled.
        """
        return self._encoder.encode(queries)

    @torch.inference_mode()
    def fill_encoded(self, encoded: Sequence[EncodedQuery]) -> list[Answer]:
        """Candidates for every mask of every query; each query has its own `top_k` and targets."""
        answers: list[Answer] = [[] for _ in encoded]
        lengths = [len(query.input_ids) for query in encoded]
        for batch in length_sorted_batches(lengths, max_rows=MAX_ROWS, max_tokens=MAX_TOKENS):
            queries = [encoded[index] for index in batch]
            masks = [(row, place) for row, query in enumerate(queries) for place in range(len(query.mask_positions))]
            hidden = self._hidden_at_masks(queries)
            for start in range(0, len(masks), _MASKS_AT_ONCE):
                chunk = masks[start : start + _MASKS_AT_ONCE]
                logits = vocabulary_logits(self._model, hidden[start : start + _MASKS_AT_ONCE])
                best = _best([queries[row] for row, _ in chunk], logits.float().softmax(dim=-1))
                for (row, place), (scores, tokens) in zip(chunk, best, strict=True):
                    answers[batch[row]].append(self._candidates(queries[row], place, scores, tokens))
        return answers

    def _hidden_at_masks(self, queries: Sequence[EncodedQuery]) -> Tensor:
        """Hidden states at the masks, row by row: (masks, dim)."""
        length = max(len(query.input_ids) for query in queries)
        padding = self._tokenizer.pad_token_id or 0
        ids = torch.tensor([[*query.input_ids, *[padding] * (length - len(query.input_ids))] for query in queries])
        lengths = torch.tensor([len(query.input_ids) for query in queries])
        attention_mask = (torch.arange(length) < lengths[:, None]).long()  # (batch, length)
        hidden = encode(self._model, ids, attention_mask, None)  # (batch, length, dim)
        rows = [row for row, query in enumerate(queries) for _ in query.mask_positions]
        return hidden[rows, [position for query in queries for position in query.mask_positions]]

    def _candidates(
        self, encoded: EncodedQuery, place: int, scores: Sequence[float], tokens: Sequence[int]
    ) -> list[Candidate]:
        sequences = [""] * len(tokens)
        if encoded.query.sequences:
            filled = [self._filled(encoded, place, token) for token in tokens]
            # As in the pipeline: with several masks the special tokens stay, or the other masks would vanish.
            sequences = self._tokenizer.batch_decode(filled, skip_special_tokens=len(encoded.mask_positions) == 1)
        return [
            Candidate(score, token, self._token_string(token), sequence)
            for score, token, sequence in zip(scores, tokens, sequences, strict=True)
        ]

    def _filled(self, encoded: EncodedQuery, place: int, token: int) -> list[int]:
        filled = list(encoded.input_ids)
        filled[encoded.mask_positions[place]] = token
        return [each for each in filled if each != self._tokenizer.pad_token_id]

    def _token_string(self, token: int) -> str:
        if token not in self._token_strings:
            self._token_strings[token] = self._tokenizer.decode([token])
        return self._token_strings[token]


def _best(queries: Sequence[EncodedQuery], probabilities: Tensor) -> list[tuple[list[float], list[int]]]:
    """Per row of probabilities (masks, vocabulary): scores and ids of the best tokens that its query allows."""
    vocabulary = probabilities.shape[-1]
    free_top_k = max((query.query.top_k for query in queries if query.target_ids is None), default=1)
    values, ids = probabilities.topk(min(free_top_k, vocabulary))
    rows = []
    for query, row_values, row_ids, row in zip(queries, values.tolist(), ids.tolist(), probabilities, strict=True):
        top_k = query.query.top_k
        if query.target_ids is None:
            rows.append((row_values[:top_k], row_ids[:top_k]))
        else:
            found = row[list(query.target_ids)].topk(min(top_k, len(query.target_ids)))
            rows.append((found.values.tolist(), [query.target_ids[place] for place in found.indices.tolist()]))
    return rows
