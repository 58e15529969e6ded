"""A small task in GLUE's layout made from a corpus: does sentence B follow sentence A?

It stands in for GLUE where GLUE's files are not at hand. The layout is that of RTE, with labels of its own. In half of
the pairs B is the sentence behind A; in the others it is the B of another pair, from another document of the split, so
that B alone tells nothing. No document gives sentences to two splits.
"""

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from distilray.config.evaluation import BuildNextSentenceTaskConfig
from distilray.errors import InputError
from distilray.finetuning.tasks import TASKS
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.seeding import generator, hash_integers

GLUE_FOLDER = "glue"  # of a run: what recipes name as glue_dir
TASK_FOLDER = "Follows"
SPLITS = ("train", "dev", "test")
_SPLIT, _ORDER, _PAIRS = 1, 2, 3  # what a seed is used for
_HELD = 4  # times as many pairs as needed are held while the corpus is read
_DRAWS = 1000  # at a sentence of another document; a split that needs more has hardly any


class _Neighbours(NamedTuple):
    """Two sentences of a document, one behind the other; pairs are compared by `order`, which is random."""

    order: int
    document: int
    first: str
    second: str


def plan_next_sentence_task(config: BuildNextSentenceTaskConfig) -> dict[str, object]:
    """Validates the inputs of `build_next_sentence_task` and says what it would do."""
    corpus = Corpus.open(config.corpus_dir)
    return {
        "corpus": f"{config.corpus_dir}: {corpus.documents:,} documents",
        "pairs": ", ".join(f"{getattr(config, split):,} {split}" for split in SPLITS),
        "sentences": f"of {config.min_words} to {config.max_words} words",
    }


def build_next_sentence_task(config: BuildNextSentenceTaskConfig, folder: RunFolder) -> Outcome:
    """Writes `glue/Follows/{train,dev,test}.tsv`.

    Raises:
        InputError: the corpus is too small.
    """
    sizes = {split: getattr(config, split) for split in SPLITS}
    words = (config.min_words, config.max_words)
    files, counts = write_next_sentence_task(
        config.corpus_dir, folder.path(GLUE_FOLDER), seed=config.seed, **sizes, words=words
    )
    told = ", ".join(f"{rows:,} {split}" for split, rows in sizes.items())
    outputs = {storage.join(GLUE_FOLDER, name): entry for name, entry in files.items()}
    return Outcome(f"{told} pairs of {sum(counts['usable'].values()):,} usable ones", counts, outputs)


def write_next_sentence_task(
    corpus_dir: str, glue_dir: str, *, seed: int, train: int, dev: int, test: int, words: tuple[int, int] = (5, 40)
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes the task `follows` below `glue_dir`; equal corpora and arguments give equal files.

    Args:
        corpus_dir: run folder of `jobs.build_corpus`.
        train, dev, test: pairs of each split; the documents are shared out in the same proportion.
        words: the least and the most words of a sentence that is taken.

    Returns:
        Rows, bytes and sha256 by file; numbers of pairs that could be used and that were left out for their length.

    Raises:
        InputError: a split's documents hold fewer pairs than asked for, or only one of them holds any.
    """
    sizes = dict(zip(SPLITS, (train, dev, test), strict=True))
    chosen, counts = _choose(Corpus.open(corpus_dir), sizes, words, seed)
    tables = {}
    for number, (split, pairs) in enumerate(chosen.items()):
        if len(pairs) < sizes[split] or len({pair.document for pair in pairs}) < 2:
            raise InputError(
                f"{corpus_dir}: the documents for {split} have {counts['usable'][split]:,} pairs of sentences of "
                f"{words[0]} to {words[1]} words; {sizes[split]:,}, of two or more documents, are needed: ask for "
                "fewer, or build a larger corpus"
            )
        rows = _labelled(pairs, generator(seed, _PAIRS, number), f"{corpus_dir}: {split}")
        tables[storage.join(TASK_FOLDER, f"{split}.tsv")] = _table(rows, with_label=split != "test")
    for name, data in tables.items():
        storage.write_bytes(storage.join(glue_dir, name), data)
    return {
        name: {"rows": data.count(b"\n") - 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in tables.items()
    }, counts


def _choose(
    corpus: Corpus, sizes: Mapping[str, int], words: tuple[int, int], seed: int
) -> tuple[dict[str, list[_Neighbours]], dict[str, Any]]:
    """A random choice of each split's pairs in random order; of a large corpus a few times as many are held."""
    ranks = generator(seed, _SPLIT).permutation(corpus.documents)
    ends = np.cumsum(list(sizes.values()))[:-1] / sum(sizes.values())
    split_of = np.searchsorted(ends, (ranks + 0.5) / corpus.documents)
    chosen: dict[str, list[_Neighbours]] = {split: [] for split in sizes}
    usable, too_short_or_long = dict.fromkeys(sizes, 0), 0
    for document, sentences in enumerate(_documents(corpus)):
        split = SPLITS[split_of[document]]
        pairs = list(_neighbours(document, sentences, words, seed))
        usable[split] += len(pairs)
        too_short_or_long += max(len(sentences) - 1, 0) - len(pairs)
        chosen[split] += pairs
        if len(chosen[split]) > _HELD * sizes[split]:
            chosen[split] = heapq.nsmallest(sizes[split], chosen[split])
    cut = {split: heapq.nsmallest(sizes[split], pairs) for split, pairs in chosen.items()}
    return cut, {"usable": usable, "too_short_or_long": too_short_or_long}


def _documents(corpus: Corpus) -> Iterator[list[str]]:
    for name, rows in corpus.files.items():
        for group in read_sentences(storage.join(corpus.folder, name), 0, rows):
            # One space for every gap: a tab or a line break would end a field.
            yield from ([" ".join(sentence.split()) for sentence in document] for document in group)


def _neighbours(document: int, sentences: list[str], words: tuple[int, int], seed: int) -> Iterator[_Neighbours]:
    """The pairs of a document both of whose sentences have a fitting length."""
    orders = hash_integers(seed, _ORDER, document, np.arange(len(sentences)))
    fits = [words[0] <= len(sentence.split()) <= words[1] for sentence in sentences]
    for at in range(len(sentences) - 1):
        if fits[at] and fits[at + 1]:
            yield _Neighbours(int(orders[at]), document, sentences[at], sentences[at + 1])


def _labelled(pairs: list[_Neighbours], rng: np.random.Generator, where: str) -> list[tuple[str, str, str]]:
    """Sentence 1, sentence 2 and label of each pair; as many follow as do not, or one more."""
    labels, follows = TASKS["follows"].labels, rng.permutation(len(pairs)) % 2 == 0
    return [
        (pair.first, pair.second, labels[0]) if kept else (pair.first, _stranger(pair, pairs, rng, where), labels[1])
        for pair, kept in zip(pairs, follows, strict=True)
    ]


def _stranger(pair: _Neighbours, pairs: list[_Neighbours], rng: np.random.Generator, where: str) -> str:
    """The second sentence of a random pair of another document."""
    for drawn in rng.integers(len(pairs), size=_DRAWS):
        other = pairs[drawn]
        if other.document != pair.document and other.second != pair.second:
            return other.second
    raise InputError(f"{where}: nearly all of its pairs are of one document; build a larger corpus")


def _table(rows: list[tuple[str, str, str]], *, with_label: bool) -> bytes:
    """The rows as RTE's TSV file: a header, an index, no quoting."""
    names = ("index", "sentence1", "sentence2", "label")
    lines = [names, *((str(index), *row) for index, row in enumerate(rows))]
    fields = len(names) if with_label else len(names) - 1
    return "".join("\t".join(line[:fields]) + "\n" for line in lines).encode()
