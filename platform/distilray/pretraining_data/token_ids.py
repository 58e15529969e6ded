"""Documents as token ids.

Runs of one flat array, put one after the other.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

Int64Array = NDArray[np.int64]


def gather_slices(values: NDArray[np.uint16], starts: Int64Array, lengths: Int64Array) -> NDArray[np.uint16]:
    """Runs of `values`, one after the other."""
    ends = np.cumsum(lengths)
    return values[np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)]


def list_array(values: NDArray[np.uint16], lengths: Int64Array) -> pa.ListArray:
    """Values as a column of lists."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values)


_BATCH_SENTENCES = 1024
# Bytes of words, with some 200 for each, that are remembered; then it begins anew.
_REMEMBERED_BYTES = 128 << 20
_WORD_BYTES = 200


@dataclass(frozen=True)
class TokenizedDocument:
    """A document without special tokens.

    Attributes:
        row: its number in the corpus.
        start: where its tokens begin in `TokenizedDocuments.ids`.
        ends: where each sentence ends, counted from `start`; sentences without a token are left out.
    """

    row: int
    start: int
    ends: Sequence[int]


@dataclass(frozen=True)
class TokenizedDocuments:
    """Documents one after the other in one array of ids."""

    ids: NDArray[np.uint16]
    documents: Sequence[TokenizedDocument]


def tokenize(rows: Sequence[int], sentences: Sequence[Sequence[str]], tokenizer_json: str) -> TokenizedDocuments:
    """The documents that leave at least one token.

    Text that reads like a special token, such as `[MASK]`, is encoded as any other text.

    Args:
        rows: the number of each document in the corpus.
        sentences: of each document.
    """
    pieces, flat = _word_pieces(tokenizer_json), list(chain.from_iterable(sentences))
    ids, lengths = [np.empty(0, np.uint16)], []
    for at in range(0, len(flat), _BATCH_SENTENCES):
        found, tokens = pieces.encode(flat[at : at + _BATCH_SENTENCES])
        ids.append(found)
        lengths += tokens.tolist()
    documents, sentence, start = [], 0, 0
    for row, document in zip(rows, sentences, strict=True):
        own = [length for length in lengths[sentence : sentence + len(document)] if length]
        sentence += len(document)
        if own:
            documents.append(TokenizedDocument(row, start, list(accumulate(own))))
            start += documents[-1].ends[-1]
    return TokenizedDocuments(np.concatenate(ids), documents)


class CachedTokenizer:
    """Encodes sentences word by word, and each word once: its pieces are the same wherever it stands.

    A word is what stands between two spaces. The rules of BERT never look beyond one, and most words of a text have
    been met before; so this is several times as fast as the library, which does the work.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._forget()

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids, self._ends = array("H"), array("q", [0])
        self._bytes = 0

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """The ids of all sentences, one after the other, and the tokens of each."""
        if self._bytes > _REMEMBERED_BYTES:
            self._forget()
        split = [sentence.split(" ") for sentence in sentences]
        words = list(chain.from_iterable(split))
        self._learn([word for word in dict.fromkeys(words) if word not in self._numbers])
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        ends = np.frombuffer(self._ends, np.int64)
        starts, tokens = ends[numbers], ends[numbers + 1] - ends[numbers]
        ids = gather_slices(np.frombuffer(self._ids, np.uint16), starts, tokens)
        first = np.cumsum([0, *map(len, split[:-1])])
        return ids, np.add.reduceat(tokens, first)

    def _learn(self, words: Sequence[str]) -> None:
        for word, encoding in zip(
            words, self._tokenizer.encode_batch_fast(words, add_special_tokens=False), strict=True
        ):
            self._numbers[word] = len(self._numbers)
            self._ids.extend(encoding.ids)
            self._ends.append(len(self._ids))
            self._bytes += len(word) + _WORD_BYTES


@lru_cache(maxsize=1)
def _word_pieces(tokenizer_json: str) -> CachedTokenizer:
    return CachedTokenizer(Tokenizer.from_str(tokenizer_json))  # one of its own, since its settings are changed
