"""Text that an evaluation set holds too: n-grams of words that both share (Brown et al. 2020, appendix C)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilray.corpus.screening.evaluation_files import evaluation_files, read_texts
from distilray.corpus.screening.ngrams import Words, ngram_hashes, normalised, words_of
from distilray.errors import InputError
from distilray.runtime.seeding import UInt64Array

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


def matches(ngrams: EvaluationNgrams, sentences: Sequence[str]) -> int:
    """The sets that share an n-gram with a document, as a mask of bits; n-grams run on across its sentences."""
    words = words_of(normalised(sentences))
    return int(np.bitwise_or.reduce(_hits(ngrams, words)[1], initial=np.uint64(0)))


def matching_sentences(ngrams: EvaluationNgrams, sentences: Sequence[str]) -> list[int]:
    """A mask as in `matches` for each sentence: the sets of the shared n-grams that a word of it belongs to."""
    masks = [0] * len(sentences)
    sentence_of = np.repeat(np.arange(len(sentences)), [len(normalised([one]).split()) for one in sentences])
    words = words_of(normalised(sentences))
    ends = words.ngram_ends(ngrams.ngram_words)
    for start, sets in zip(*_hits(ngrams, words), strict=True):
        for sentence in range(sentence_of[start], sentence_of[ends[start] - 1] + 1):
            masks[sentence] |= int(sets)
    return masks


def _hits(ngrams: EvaluationNgrams, words: Words) -> tuple[NDArray[np.intp], UInt64Array]:
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
    texts = [ngram_hashes(words_of(normalised([text])), ngram_words) for text in read_texts(uri)]
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
