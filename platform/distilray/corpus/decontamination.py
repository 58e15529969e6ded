"""Decontamination: evaluation files and the word n-grams that documents share with them.

Follows Brown et al. (2020), appendix C.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilray.corpus.ngrams import HashedWords, hash_words, ngram_hashes, normalized_words
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import lines_of
from distilray.formats.parquet import ParquetTable
from distilray.formats.streams import UnreadableError
from distilray.formats.tables import DelimitedRows, Row, json_rows
from distilray.runtime import storage
from distilray.runtime.file_search import find_files
from distilray.runtime.outputs import read_verified
from distilray.runtime.seeding import UInt64Array

MAX_SETS = 64  # one bit each in a 64-bit mask
_PREFIXES_PER_HASH = 8  # size of the prefix table; it then rules out about 7 of 8 n-grams

_EVALUATION_SPLIT = re.compile(r"dev|test|validation", re.IGNORECASE)
_SPLIT = re.compile(r"(?:dev|test|train|validation)(?![^\W_])", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class EvaluationNgrams:
    """N-grams of all evaluation sets.

    Attributes:
        hashes: (n-grams,) sorted and unique.
        sets: (n-grams,) bit masks of the sets that contain each n-gram; bit i is the set `names[i]`.
        prefixes: (2**k,) whether any hash starts with these k bits; a cheap test that rules out most n-grams.
        names: names of the sets.
        ngram_words: words per n-gram.
    """

    hashes: UInt64Array
    sets: UInt64Array
    prefixes: NDArray[np.bool_]
    names: tuple[str, ...]
    ngram_words: int


def read_evaluation_ngrams(paths: Sequence[str], *, ngram_words: int) -> EvaluationNgrams:
    """Read the n-grams within each field of the evaluation files. Fields shorter than `ngram_words` have none.

    For a folder, the dev, test and validation splits are read, and each subfolder is one set.

    Raises:
        InputError: if a path has no evaluation file or no n-gram, or there are more than 64 sets.
    """
    arrays_by_set: dict[str, list[UInt64Array]] = {}
    for path in paths:
        ngrams_by_file = [(name, _file_ngrams(uri, ngram_words)) for name, uri in evaluation_files(path)]
        if not any(ngrams.size for _, ngrams in ngrams_by_file):
            raise InputError(f"{path}: no text of {ngram_words} words; choose a smaller decontamination.ngram_words")
        for name, ngrams in ngrams_by_file:
            arrays_by_set.setdefault(name, []).append(ngrams)
    if len(arrays_by_set) > MAX_SETS:
        raise InputError(
            f"decontamination.paths: {len(arrays_by_set)} evaluation sets, but at most {MAX_SETS} are supported; "
            "remove some"
        )
    return _merge({name: np.concatenate(arrays) for name, arrays in arrays_by_set.items()}, ngram_words)


def matching_sets(ngrams: EvaluationNgrams, sentences: Sequence[str]) -> int:
    """Return the bit mask of the sets that share an n-gram with a document. N-grams may span several sentences."""
    words = hash_words(normalized_words(sentences))
    return int(np.bitwise_or.reduce(_hits(ngrams, words)[1], initial=np.uint64(0)))


def matching_sets_by_sentence(ngrams: EvaluationNgrams, sentences: Sequence[str]) -> list[int]:
    """Return the bit mask of each sentence: the sets of the shared n-grams that overlap it."""
    masks = [0] * len(sentences)
    sentence_of = np.repeat(np.arange(len(sentences)), [len(normalized_words([text]).split()) for text in sentences])
    words = hash_words(normalized_words(sentences))
    ends = words.ngram_ends(ngrams.ngram_words)
    for start, sets in zip(*_hits(ngrams, words), strict=True):
        for sentence in range(sentence_of[start], sentence_of[ends[start] - 1] + 1):
            masks[sentence] |= int(sets)
    return masks


def _hits(ngrams: EvaluationNgrams, words: HashedWords) -> tuple[NDArray[np.intp], UInt64Array]:
    """Return the index of the first word (hits,) and the bit mask (hits,) of each shared n-gram."""
    hashes = ngram_hashes(words, ngrams.ngram_words)
    candidates = np.flatnonzero(np.take(ngrams.prefixes, _prefix(hashes, ngrams.prefixes.size)))
    hashes = hashes[candidates]
    positions = np.searchsorted(ngrams.hashes, hashes)
    is_hit = np.take(ngrams.hashes, positions, mode="clip") == hashes
    return candidates[is_hit], ngrams.sets[positions[is_hit]]


def _prefix(hashes: UInt64Array, size: int) -> NDArray[np.intp]:
    return (hashes >> np.uint64(65 - size.bit_length())).astype(np.intp)


def _file_ngrams(uri: str, ngram_words: int) -> UInt64Array:
    texts = [ngram_hashes(hash_words(normalized_words([text])), ngram_words) for text in read_texts(uri)]
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *texts]))


def _merge(hashes_by_set: dict[str, UInt64Array], ngram_words: int) -> EvaluationNgrams:
    bits = [np.full(hashes.size, 1 << bit, dtype=np.uint64) for bit, hashes in enumerate(hashes_by_set.values())]
    hashes = np.concatenate(list(hashes_by_set.values()))
    order = np.argsort(hashes)
    hashes, first = np.unique(hashes[order], return_index=True)
    sets = np.bitwise_or.reduceat(np.concatenate(bits)[order], first)
    prefixes = np.zeros(1 << (_PREFIXES_PER_HASH * hashes.size).bit_length(), dtype=bool)
    prefixes[_prefix(hashes, prefixes.size)] = True
    return EvaluationNgrams(hashes, sets, prefixes, tuple(hashes_by_set), ngram_words)


def evaluation_files(path: str) -> list[tuple[str, str]]:
    """Return the set name and URI of each evaluation file at a path.

    In a folder, these are the files of the `dev`, `test` and `validation` splits, and the set is named after the parent
    folder. A single file is its own set, named after the file, or after its folder if the file is named after a split.

    Raises:
        InputError: if there is no readable evaluation file.
    """
    supported = [uri for uri in find_files(path) if _suffix(uri) in _READERS]
    if not supported:
        raise InputError(f"{path}: no evaluation file found; supported suffixes are {', '.join(_READERS)}")
    if not storage.is_folder(path):
        return [(_folder(uri) if _SPLIT.match(_name(uri)) else _stem(uri), uri) for uri in supported]
    evaluation = [(_folder(uri), uri) for uri in supported if _EVALUATION_SPLIT.match(_name(uri))]
    if not evaluation:
        raise InputError(f"{path}: no file name starts with dev, test or validation; list the files themselves")
    return evaluation


def read_texts(uri: str) -> Iterator[str]:
    """Yield every text of a file: fields, lines or values.

    Raises:
        InputError: if the content does not match the suffix of the file or the manifest of its run.
    """
    suffix = _suffix(uri)
    data = read_verified(uri)
    try:
        yield from _READERS[suffix](data)
    except (ValueError, UnreadableError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{uri}: cannot be read as {suffix} in UTF-8 ({reason}); fix the file or leave it out"
        ) from None


def _name(uri: str) -> str:
    name = uri.rpartition("/")[2]
    return unquote(name) if "://" in uri else name


def _stem(uri: str) -> str:
    return _name(uri).rpartition(".")[0]


def _folder(uri: str) -> str:
    return _name(uri.rpartition("/")[0]).strip(".") or _stem(uri)


def _suffix(uri: str) -> str:
    return "." + _name(uri).rpartition(".")[2].lower()


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8-sig").split("\n")


def _cells(data: bytes, *, delimiter: str, quoted: bool) -> Iterator[str]:
    data.decode()  # fails unless UTF-8; DelimitedRows would insert surrogates
    rows = DelimitedRows(lines_of(data), "", max_bytes=len(data), delimiter=delimiter, quoted=quoted, strict=False)
    return itertools.chain.from_iterable(map(_values, rows))


def _json_lines(data: bytes) -> Iterator[str]:
    for row in json_rows(lines_of(data), "", max_bytes=len(data), objects=False):
        yield from _strings(_values(row))


def _values(row: Row | BadRow) -> Any:
    if isinstance(row, BadRow):
        raise ValueError(f"line {row.row}: {row.detail}")
    return row.values


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _parquet(data: bytes) -> Iterator[str]:
    with ParquetTable("", data=data) as table:
        for batch in table.batches():
            for column in batch.columns:
                yield from _column_texts(column)


def _column_texts(column: pa.Array) -> Iterator[str]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _column_texts(column.dictionary_decode())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from column.drop_null().to_pylist()
    elif pa.types.is_struct(kind):
        for inner in column.flatten():
            yield from _column_texts(inner)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _column_texts(column.flatten())


_READERS: Mapping[str, Callable[[bytes], Iterator[str] | list[str]]] = {
    ".tsv": partial(_cells, delimiter="\t", quoted=False),
    ".csv": partial(_cells, delimiter=",", quoted=True),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".txt": _lines,
    ".parquet": _parquet,
}
