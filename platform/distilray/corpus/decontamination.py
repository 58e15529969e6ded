"""Text that an evaluation set holds too: n-grams of words that both share (Brown et al. 2020, appendix C).

The texts of evaluation sets: which files of a path are read, what their set is called, and what is in them.
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

# The train split of a set is not what is evaluated.
_EVALUATED = re.compile(r"dev|test|validation", re.IGNORECASE)
_SPLIT = re.compile(r"(?:dev|test|train|validation)(?![^\W_])", re.IGNORECASE)


def evaluation_files(path: str) -> list[tuple[str, str]]:
    """The sets and the URIs of the files that a path means.

    In a folder these are the files of a `dev`, `test` or `validation` split, and their folders name the sets. Any
    other path means the file itself, which names its set unless its name is only that of a split.

    Raises:
        InputError: nothing is there that can be read.
    """
    known = [uri for uri in find_files(path) if _suffix(uri) in _READERS]
    if not known:
        raise InputError(f"{path}: no evaluation file there; its name must end with one of {', '.join(_READERS)}")
    if not storage.is_folder(path):
        return [(_folder(uri) if _SPLIT.match(_name(uri)) else _stem(uri), uri) for uri in known]
    evaluated = [(_folder(uri), uri) for uri in known if _EVALUATED.match(_name(uri))]
    if not evaluated:
        raise InputError(f"{path}: no name there begins with dev, test or validation; give the files themselves")
    return evaluated


def read_texts(uri: str) -> Iterator[str]:
    """Every text of a file: fields, lines or values.

    Raises:
        InputError: the file is not what its name says, or not what the manifest of its run says.
    """
    suffix = _suffix(uri)
    data = read_verified(uri)
    try:
        yield from _READERS[suffix](data)
    except (ValueError, UnreadableError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{uri}: cannot be read as {suffix} in UTF-8 ({reason}); mend the file or leave it out"
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
    data.decode()  # the rows of a file that is not UTF-8 have surrogates
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

MAX_SETS = 64  # one bit of a mask for each
_SPREAD = 8  # of the table of leads, which then rules out seven n-grams in eight


@dataclass(frozen=True, eq=False)
class EvaluationNgrams:
    """The n-grams of all evaluation sets.

    Attributes:
        hashes: (n-grams,) sorted, each there once.
        sets: (n-grams,) the sets that hold it: bit i stands for `names[i]`.
        leads: (2**k,) whether a hash begins with these k bits; rules most words of a document out at once.
        ngram_words: n.
    """

    hashes: UInt64Array
    sets: UInt64Array
    leads: NDArray[np.bool_]
    names: tuple[str, ...]
    ngram_words: int


def read_evaluation_ngrams(paths: Sequence[str], *, ngram_words: int) -> EvaluationNgrams:
    """The n-grams inside every field of evaluation files; a field of fewer words has none.

    A folder gives the files of its dev, test and validation splits, those of a subfolder as one set.

    Raises:
        InputError: a path has no such file or no n-gram, so that nothing would be checked; more than 64 sets.
    """
    found: dict[str, list[UInt64Array]] = {}
    for path in paths:
        of_path = [(name, _file_ngrams(uri, ngram_words)) for name, uri in evaluation_files(path)]
        if not any(ngrams.size for _, ngrams in of_path):
            raise InputError(f"{path}: no text of {ngram_words} words; choose a smaller decontamination.ngram_words")
        for name, ngrams in of_path:
            found.setdefault(name, []).append(ngrams)
    if len(found) > MAX_SETS:
        raise InputError(
            f"decontamination.paths: {len(found)} evaluation sets, at most {MAX_SETS} can be told apart; leave some out"
        )
    return _merged({name: np.concatenate(arrays) for name, arrays in found.items()}, ngram_words)


def matching_sets(ngrams: EvaluationNgrams, sentences: Sequence[str]) -> int:
    """The sets that share an n-gram with a document, as a mask of bits; n-grams run on across its sentences."""
    words = hash_words(normalized_words(sentences))
    return int(np.bitwise_or.reduce(_hits(ngrams, words)[1], initial=np.uint64(0)))


def matching_sets_by_sentence(ngrams: EvaluationNgrams, sentences: Sequence[str]) -> list[int]:
    """A mask as in `matches` for each sentence: the sets of the shared n-grams that a word of it belongs to."""
    masks = [0] * len(sentences)
    sentence_of = np.repeat(np.arange(len(sentences)), [len(normalized_words([one]).split()) for one in sentences])
    words = hash_words(normalized_words(sentences))
    ends = words.ngram_ends(ngrams.ngram_words)
    for start, sets in zip(*_hits(ngrams, words), strict=True):
        for sentence in range(sentence_of[start], sentence_of[ends[start] - 1] + 1):
            masks[sentence] |= int(sets)
    return masks


def _hits(ngrams: EvaluationNgrams, words: HashedWords) -> tuple[NDArray[np.intp], UInt64Array]:
    """The first words (hits,) of the n-grams that are shared, and their sets (hits,)."""
    hashed = ngram_hashes(words, ngrams.ngram_words)
    likely = np.flatnonzero(np.take(ngrams.leads, _lead(hashed, ngrams.leads.size)))
    hashed = hashed[likely]
    places = np.searchsorted(ngrams.hashes, hashed)
    same = np.take(ngrams.hashes, places, mode="clip") == hashed
    return likely[same], ngrams.sets[places[same]]


def _lead(hashes: UInt64Array, size: int) -> NDArray[np.intp]:
    return (hashes >> np.uint64(65 - size.bit_length())).astype(np.intp)


def _file_ngrams(uri: str, ngram_words: int) -> UInt64Array:
    texts = [ngram_hashes(hash_words(normalized_words([text])), ngram_words) for text in read_texts(uri)]
    return np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *texts]))


def _merged(found: dict[str, UInt64Array], ngram_words: int) -> EvaluationNgrams:
    bits = [np.full(ngrams.size, 1 << bit, dtype=np.uint64) for bit, ngrams in enumerate(found.values())]
    hashes = np.concatenate(list(found.values()))
    order = np.argsort(hashes)
    hashes, first = np.unique(hashes[order], return_index=True)
    sets = np.bitwise_or.reduceat(np.concatenate(bits)[order], first)
    leads = np.zeros(1 << (_SPREAD * hashes.size).bit_length(), dtype=bool)
    leads[_lead(hashes, leads.size)] = True
    return EvaluationNgrams(hashes, sets, leads, tuple(found), ngram_words)
