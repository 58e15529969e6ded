"""Next-sentence task in GLUE's layout, built from a corpus: does sentence B follow sentence A?

It replaces GLUE in demos and tests that have no GLUE files, and has the layout of RTE. In half of the pairs, B is the
sentence after A; in the others, it is the B of a pair from another document of the split, so B alone does not reveal
the label. The splits have no document in common.
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

GLUE_FOLDER = "glue"  # in the run folder; recipes use it as glue_dir
TASK_FOLDER = "Follows"
SPLITS = ("train", "dev", "test")
_SPLIT, _ORDER, _PAIRS = 1, 2, 3  # random streams of a seed
_BUFFER_FACTOR = 4  # pairs kept in memory while reading the corpus, per pair needed
_MAX_DRAWS = 1000  # attempts to draw a sentence from another document; only a degenerate split needs more


class _AdjacentPair(NamedTuple):
    """Two consecutive sentences of a document; pairs are sorted by `order`, a random number."""

    order: int
    document: int
    first: str
    second: str


def plan_next_sentence_task(config: BuildNextSentenceTaskConfig) -> dict[str, object]:
    """Validate the inputs of `build_next_sentence_task` and return its plan."""
    corpus = Corpus.open(config.corpus_dir)
    return {
        "corpus": f"{config.corpus_dir}: {corpus.documents:,} documents",
        "pairs": ", ".join(f"{getattr(config, split):,} {split}" for split in SPLITS),
        "sentences": f"of {config.min_words} to {config.max_words} words",
    }


def build_next_sentence_task(config: BuildNextSentenceTaskConfig, folder: RunFolder) -> Outcome:
    """Write `glue/Follows/{train,dev,test}.tsv`.

    Raises:
        InputError: the corpus is too small.
    """
    sizes = {split: getattr(config, split) for split in SPLITS}
    words = (config.min_words, config.max_words)
    files, counts = write_next_sentence_task(
        config.corpus_dir, folder.path(GLUE_FOLDER), seed=config.seed, **sizes, words=words
    )
    rows = ", ".join(f"{size:,} {split}" for split, size in sizes.items())
    outputs = {storage.join(GLUE_FOLDER, name): entry for name, entry in files.items()}
    return Outcome(f"{rows} pairs of {sum(counts['usable'].values()):,} usable ones", counts, outputs)


def write_next_sentence_task(
    corpus_dir: str, glue_dir: str, *, seed: int, train: int, dev: int, test: int, words: tuple[int, int] = (5, 40)
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the task `follows` to `glue_dir`; the same corpus and arguments produce the same files.

    Args:
        corpus_dir: run folder of `jobs.build_corpus`.
        train, dev, test: number of pairs of each split; documents are divided in the same proportion.
        words: minimum and maximum number of words in a sentence.

    Returns:
        Rows, bytes and sha256 of each file; the number of usable pairs and of pairs dropped for their length.

    Raises:
        InputError: the documents of a split contain too few pairs, or all its pairs come from one document.
    """
    sizes = dict(zip(SPLITS, (train, dev, test), strict=True))
    chosen, counts = _sample_pairs(Corpus.open(corpus_dir), sizes, words, seed)
    tables = {}
    for number, (split, pairs) in enumerate(chosen.items()):
        if len(pairs) < sizes[split] or len({pair.document for pair in pairs}) < 2:
            raise InputError(
                f"{corpus_dir}: the documents for {split} have {counts['usable'][split]:,} pairs of sentences of "
                f"{words[0]} to {words[1]} words; {sizes[split]:,} from two or more documents are needed: request "
                "fewer, or build a larger corpus"
            )
        rows = _label_pairs(pairs, generator(seed, _PAIRS, number), f"{corpus_dir}: {split}")
        tables[storage.join(TASK_FOLDER, f"{split}.tsv")] = _tsv(rows, with_label=split != "test")
    for name, data in tables.items():
        storage.write_bytes(storage.join(glue_dir, name), data)
    return {
        name: {"rows": data.count(b"\n") - 1, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in tables.items()
    }, counts


def _sample_pairs(
    corpus: Corpus, sizes: Mapping[str, int], words: tuple[int, int], seed: int
) -> tuple[dict[str, list[_AdjacentPair]], dict[str, Any]]:
    """Sample the pairs of each split, in random order and with bounded memory; also return counts."""
    ranks = generator(seed, _SPLIT).permutation(corpus.documents)
    ends = np.cumsum(list(sizes.values()))[:-1] / sum(sizes.values())
    split_of = np.searchsorted(ends, (ranks + 0.5) / corpus.documents)
    chosen: dict[str, list[_AdjacentPair]] = {split: [] for split in sizes}
    usable, too_short_or_long = dict.fromkeys(sizes, 0), 0
    for document, sentences in enumerate(_documents(corpus)):
        split = SPLITS[split_of[document]]
        pairs = list(_adjacent_pairs(document, sentences, words, seed))
        usable[split] += len(pairs)
        too_short_or_long += max(len(sentences) - 1, 0) - len(pairs)
        chosen[split] += pairs
        if len(chosen[split]) > _BUFFER_FACTOR * sizes[split]:
            chosen[split] = heapq.nsmallest(sizes[split], chosen[split])
    samples = {split: heapq.nsmallest(sizes[split], pairs) for split, pairs in chosen.items()}
    return samples, {"usable": usable, "too_short_or_long": too_short_or_long}


def _documents(corpus: Corpus) -> Iterator[list[str]]:
    for name, rows in corpus.files.items():
        for group in read_sentences(storage.join(corpus.folder, name), 0, rows):
            # A tab or a line break would end a TSV field.
            yield from ([" ".join(sentence.split()) for sentence in document] for document in group)


def _adjacent_pairs(document: int, sentences: list[str], words: tuple[int, int], seed: int) -> Iterator[_AdjacentPair]:
    """Yield the pairs of a document in which both sentences have an allowed length."""
    orders = hash_integers(seed, _ORDER, document, np.arange(len(sentences)))
    fits = [words[0] <= len(sentence.split()) <= words[1] for sentence in sentences]
    for number in range(len(sentences) - 1):
        if fits[number] and fits[number + 1]:
            yield _AdjacentPair(int(orders[number]), document, sentences[number], sentences[number + 1])


def _label_pairs(pairs: list[_AdjacentPair], rng: np.random.Generator, split_name: str) -> list[tuple[str, str, str]]:
    """Return sentence A, sentence B and label of each pair; half of them, rounded up, keep their B."""
    follows, not_follows = TASKS["follows"].labels
    is_kept = rng.permutation(len(pairs)) % 2 == 0
    return [
        (pair.first, pair.second, follows)
        if kept
        else (pair.first, _draw_second(pair, pairs, rng, split_name), not_follows)
        for pair, kept in zip(pairs, is_kept, strict=True)
    ]


def _draw_second(pair: _AdjacentPair, pairs: list[_AdjacentPair], rng: np.random.Generator, split_name: str) -> str:
    """Draw the second sentence of a pair from another document."""
    for index in rng.integers(len(pairs), size=_MAX_DRAWS):
        other = pairs[index]
        if other.document != pair.document and other.second != pair.second:
            return other.second
    raise InputError(f"{split_name}: nearly all of its pairs come from one document; build a larger corpus")


def _tsv(rows: list[tuple[str, str, str]], *, with_label: bool) -> bytes:
    """Return a TSV file like RTE's, with a header and an index column and without quoting."""
    names = ("index", "sentence1", "sentence2", "label")
    lines = [names, *((str(index), *row) for index, row in enumerate(rows))]
    fields = len(names) if with_label else len(names) - 1
    return "".join("\t".join(line[:fields]) + "\n" for line in lines).encode()
