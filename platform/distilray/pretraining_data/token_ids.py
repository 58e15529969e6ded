"""Tokenization of documents into flat arrays of ids, and operations on ragged arrays."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from distilray.errors import InputError
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
from distilray.pretraining_data.tokenizer import Vocabulary
from distilray.runtime import storage

_BATCH_SENTENCES = 1024
_CACHE_BYTES = 128 << 20  # the cache is cleared when it is larger
_WORD_BYTES = 200  # overhead of a cached word
# Number of ranges of documents to sample, and maximum number of documents and sentences per range.
_SAMPLED_RANGES, _SAMPLED_DOCUMENTS, _SAMPLED_SENTENCES = 8, 32, 250
_SPACED_SENTENCES = 50  # sentences also checked with double spaces

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class TokenizedDocument:
    """Tokenized document, without special tokens.

    Attributes:
        row: number of the document in the corpus.
        start: index of its first token in `TokenizedDocuments.ids`.
        ends: end of each sentence, relative to `start`; sentences without tokens are omitted.
    """

    row: int
    start: int
    ends: Sequence[int]


@dataclass(frozen=True)
class TokenizedDocuments:
    """Tokenized documents in one array of ids."""

    ids: NDArray[np.uint16]
    documents: Sequence[TokenizedDocument]


def tokenize(rows: Sequence[int], sentences: Sequence[Sequence[str]], tokenizer_json: str) -> TokenizedDocuments:
    """Tokenize documents, and omit those without any token.

    Text that looks like a special token, such as `[MASK]`, is encoded like other text.

    Args:
        rows: number of each document in the corpus.
        sentences: sentences of each document.
    """
    tokenizer, flat = _cached_tokenizer(tokenizer_json), list(chain.from_iterable(sentences))
    ids, lengths = [np.empty(0, np.uint16)], []
    for batch_start in range(0, len(flat), _BATCH_SENTENCES):
        batch_ids, batch_lengths = tokenizer.encode(flat[batch_start : batch_start + _BATCH_SENTENCES])
        ids.append(batch_ids)
        lengths += batch_lengths.tolist()
    documents, sentence, start = [], 0, 0
    for row, document in zip(rows, sentences, strict=True):
        sentence_lengths = [length for length in lengths[sentence : sentence + len(document)] if length]
        sentence += len(document)
        if sentence_lengths:
            documents.append(TokenizedDocument(row, start, list(accumulate(sentence_lengths))))
            start += documents[-1].ends[-1]
    return TokenizedDocuments(np.concatenate(ids), documents)


class CachedTokenizer:
    """Tokenizer that caches the ids of words, which are separated by spaces.

    BERT's tokenization of a word does not depend on its neighbors, and most words of a text have occurred before. The
    cache makes encoding several times as fast as the tokenizers library alone, which then only encodes new words.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._clear()

    def _clear(self) -> None:
        self._numbers: dict[str, int] = {}
        self._ids, self._ends = array("H"), array("q", [0])
        self._bytes = 0

    def encode(self, sentences: Sequence[str]) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
        """Return the concatenated ids of all sentences, and the number of tokens of each."""
        if self._bytes > _CACHE_BYTES:
            self._clear()
        split = [sentence.split(" ") for sentence in sentences]
        words = list(chain.from_iterable(split))
        self._add([word for word in dict.fromkeys(words) if word not in self._numbers])
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        ends = np.frombuffer(self._ends, np.int64)
        starts, tokens = ends[numbers], ends[numbers + 1] - ends[numbers]
        ids = gather_slices(np.frombuffer(self._ids, np.uint16), starts, tokens)
        first = np.cumsum([0, *map(len, split[:-1])])
        return ids, np.add.reduceat(tokens, first)

    def _add(self, words: Sequence[str]) -> None:
        for word, encoding in zip(
            words, self._tokenizer.encode_batch_fast(words, add_special_tokens=False), strict=True
        ):
            self._numbers[word] = len(self._numbers)
            self._ids.extend(encoding.ids)
            self._ends.append(len(self._ids))
            self._bytes += len(word) + _WORD_BYTES


@lru_cache(maxsize=1)
def _cached_tokenizer(tokenizer_json: str) -> CachedTokenizer:
    # Not the shared instance of `build_tokenizer`, because `CachedTokenizer` changes its settings.
    return CachedTokenizer(Tokenizer.from_str(tokenizer_json))


def check_tokenizer(
    tokenizer_dir: str, sample: Sequence[str], tokenizer_json: str, vocabulary: Vocabulary, *, whole_words: bool = False
) -> None:
    """Compare the ids of some texts with those of the tokenizers library.

    Args:
        tokenizer_dir: name of the tokenizer in messages.
        whole_words: value of `masking.whole_words`.

    Raises:
        InputError: encoding word by word gives other ids, as with byte-level BPE and SentencePiece; or
            `masking.whole_words` is set and the tokenizer does not mark continuation pieces with `##`.
    """
    library = Tokenizer.from_str(tokenizer_json)
    library.encode_special_tokens = True
    cached = CachedTokenizer(Tokenizer.from_str(tokenizer_json))
    # A sample may lack tokens that contain a space, and words that are separated by several spaces.
    added = [token.content for token in library.get_added_tokens_decoder().values() if " " in token.content.strip()]
    spaced = [sentence.replace(" ", "  ") for sentence in sample[:_SPACED_SENTENCES]]
    for text in [*added, *spaced, *sample]:
        encoding = library.encode(text, add_special_tokens=False)
        if cached.encode([text])[0].tolist() != encoding.ids:
            raise InputError(
                f"{tokenizer_dir}: this tokenizer encodes words with their spaces or neighbors, as byte-level "
                f"BPE and SentencePiece do ('{_shorten(text)}' has other ids word by word), and encode_corpus would "
                "write wrong ids; use a WordPiece tokenizer, such as BERT's"
            )
        if whole_words:
            is_inside = np.diff(np.array(encoding.word_ids, float), prepend=-1.0) == 0
            if (is_inside != vocabulary.is_continuation[encoding.ids]).any():
                raise InputError(
                    f"{tokenizer_dir}: this tokenizer does not mark the pieces inside a word with '##', which "
                    "masking.whole_words needs; set it to false, or use a WordPiece tokenizer, such as BERT's"
                )


def sample_sentences(corpus: Corpus) -> list[str]:
    """Return sentences of documents at evenly spaced positions of the corpus."""
    sentences: list[str] = []
    positions = np.linspace(0, corpus.documents, _SAMPLED_RANGES, endpoint=False).astype(int).tolist()
    first = 0
    for name, rows in corpus.files.items():
        for start in [position - first for position in positions if first <= position < first + rows]:
            batches = read_sentences(storage.join(corpus.folder, name), start, min(start + _SAMPLED_DOCUMENTS, rows))
            sentences += list(chain.from_iterable(chain.from_iterable(batches)))[:_SAMPLED_SENTENCES]
        first += rows
    return sentences


def _shorten(text: str) -> str:
    return " ".join(text[:60].split()[:4])


def gather_slices(values: NDArray[np.uint16], starts: Int64Array, lengths: Int64Array) -> NDArray[np.uint16]:
    """Return the concatenation of values[start : start + length]."""
    ends = np.cumsum(lengths)
    return values[np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)]


def list_array(values: NDArray[Any], lengths: Sequence[int] | Int64Array) -> pa.ListArray:
    """Return concatenated values as an Arrow list array."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values)
