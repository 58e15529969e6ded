"""Training of a WordPiece tokenizer on a corpus, or reuse of a teacher's tokenizer."""

import json
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from distilray.config.pretraining_data import TrainTokenizerConfig
from distilray.config.sample import resolve_sample
from distilray.corpus.writing_systems import count_words
from distilray.errors import InputError
from distilray.pretraining_data.corpus_reader import Corpus, read_sentences
from distilray.pretraining_data.tokenizer import (
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    build_tokenizer,
    canonical_json,
    read_tokenizer,
    tokenizer_hash,
    vocabulary_of,
)
from distilray.runtime import storage
from distilray.runtime.job import Outcome
from distilray.runtime.progress import Progress, format_duration
from distilray.runtime.run_folder import RunFolder
from distilray.runtime.seeding import hash_integers, uniform
from distilray.runtime.signals import run_interruptibly

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILE = "vocab.txt"
_SAMPLE = 200  # random stream that selects documents
# The first ids of BERT's vocabularies; learned tokens follow.
_FIRST_IDS = ("[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_STATISTICS_SENTENCES = 2000  # sentences used for tokens_per_word and stripped_fraction
_STRIPPED_THRESHOLD = 0.01  # a larger `stripped_fraction` is reported; English has 0.0005
_TRAINER_BATCH = 64  # sentences
MAX_WORD_CHARACTERS = 100  # WordPiece maps longer words to [UNK]
_MAX_EXPANSION = 4  # maximum number of characters to which one expands in normalization (Unicode's NFD)
_WORDS_PER_S = 400_000  # measured on one core


def plan_tokenizer(config: TrainTokenizerConfig) -> dict[str, object]:
    """Validate the inputs of `train_tokenizer` and return its plan.

    Raises:
        InputError: the corpus is missing, the sample is empty, or the teacher's tokenizer cannot be used.
    """
    if config.teacher_dir is not None:
        tokenizer_json = read_tokenizer(resolve_sample(config.teacher_dir))
        size = vocabulary_of(tokenizer_json).size
        return {"teacher": f"{config.teacher_dir}: {size:,} ids, hash {tokenizer_hash(tokenizer_json)[:12]}, unchanged"}
    assert config.corpus_dir is not None
    corpus = Corpus.open(config.corpus_dir)
    documents = int(_in_sample(np.arange(corpus.documents), config).sum())
    if not documents:
        raise InputError(f"sample_fraction: none of the {corpus.documents:,} documents is in the sample; raise it")
    words = corpus.words * documents / corpus.documents
    return {
        "corpus": f"{config.corpus_dir}: {corpus.documents:,} documents, {corpus.words:,} words",
        "sample": f"{documents:,} documents, about {int(words):,} words",
        "vocabulary": f"{config.vocabulary_size:,} ids, {_normalization(config)}",
        "memory": "about 0.3 GB, plus 0.2 GB per million distinct words",
        "estimate": f"about {format_duration(words / _WORDS_PER_S)} to count words, and half of that to merge them",
    }


def _normalization(config: TrainTokenizerConfig) -> str:
    strips_accents = config.lower_case if config.strip_accents is None else config.strip_accents
    return f"{'lower-cased' if config.lower_case else 'cased'}, {'without' if strips_accents else 'with'} accents"


def train_tokenizer(config: TrainTokenizerConfig, folder: RunFolder) -> Outcome:
    """Write `tokenizer.json`, `tokenizer_config.json` and `vocab.txt`, in the layout of `transformers`.

    Raises:
        InputError: the corpus contains no text, or the teacher's tokenizer cannot be used.
    """
    counts: dict[str, Any] = {}
    if config.teacher_dir is not None:
        tokenizer_json = read_tokenizer(resolve_sample(config.teacher_dir))
        origin = f"the tokenizer of {config.teacher_dir}"
    else:
        tokenizer_json = canonical_json(_train(config, counts))
        origin = f"learned from {counts['documents']:,} documents, {counts['tokens_per_word']:.2f} tokens per word"
    size = vocabulary_of(tokenizer_json).size
    if config.teacher_dir is None and size < config.vocabulary_size:
        origin += f"; the text yields no more (vocabulary_size: {config.vocabulary_size:,})"
    if counts.get("stripped_fraction", 0) > _STRIPPED_THRESHOLD and config.strip_accents is None:
        origin += (
            f"; accents were removed from {counts['stripped_fraction']:.1%} of the letters (strip_accents: false keeps "
            "them)"
        )
    files = _files(tokenizer_json, config)
    for name, text in files.items():
        storage.write_bytes(folder.path(name), text.encode())
    summary = f"{size:,} ids, {origin}"
    counts |= {"tokenizer_hash": tokenizer_hash(tokenizer_json), "vocabulary_size": size}
    return Outcome(summary, counts, folder.describe_outputs(files))


def _train(config: TrainTokenizerConfig, counts: dict[str, Any]) -> Tokenizer:
    """Train a tokenizer in two passes: characters, then words. Adds statistics to `counts`.

    The first pass fixes the ids of the characters, which the trainer would number in the order of a hash table. Words
    that are too long for WordPiece are ignored: they become `[UNK]`, so no text could use tokens learned from them.
    """
    assert config.corpus_dir is not None
    corpus = Corpus.open(config.corpus_dir)
    tokenizer = _bert_tokenizer({}, config)
    reader = _SampleReader(corpus, config)
    characters: Counter[str] = Counter()
    for batch in reader.batches("train_tokenizer: characters"):
        text = "\n".join(_remove_long_words(batch, tokenizer))
        characters.update(tokenizer.normalizer.normalize_str(text))
    alphabet = [character for character, _ in sorted(characters.items(), key=lambda item: (-item[1], item[0]))]
    alphabet = sorted([character for character in alphabet if not character.isspace()][: config.max_characters])
    if not alphabet:
        raise InputError(f"{config.corpus_dir}: the documents of the sample contain no text; use another corpus")
    counts |= {"documents": reader.documents, "sentences": reader.sentences, "words": reader.words}
    continuations = [f"##{character}" for character in alphabet if _can_continue_word(character, tokenizer)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocabulary_size - len(_FIRST_IDS),
        min_frequency=config.min_frequency,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=continuations,  # special tokens get the first ids
        show_progress=False,
        continuing_subword_prefix="##",
    )
    stop = threading.Event()
    words = _SampleReader(corpus, config).batches("train_tokenizer: words")
    rules = _bert_tokenizer({}, config)  # a tokenizer in training is locked
    batches = _rebatch(stop, (_remove_long_words(batch, rules) for batch in words))
    try:
        run_interruptibly(lambda: tokenizer.train_from_iterator(batches, trainer), name="train_tokenizer")
    finally:
        stop.set()
    single_characters = {*alphabet, *continuations}
    ids = json.loads(tokenizer.to_str())["model"]["vocab"]
    learned = sorted(ids.keys() - single_characters, key=lambda token: int(ids[token]))
    tokens = [*_FIRST_IDS, *alphabet, *continuations, *learned][: config.vocabulary_size]
    trained = _bert_tokenizer({token: number for number, token in enumerate(tokens)}, config)
    counts["tokens_per_word"] = round(reader.tokens_per_word(trained), 4)
    counts["stripped_fraction"] = round(reader.stripped_fraction(trained), 4)
    return trained


def _remove_long_words(sentences: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Remove words of more than `MAX_WORD_CHARACTERS` characters after normalization."""
    return [
        _without_long_words(sentence, tokenizer) if _may_have_long_word(sentence) else sentence
        for sentence in sentences
    ]


def _may_have_long_word(sentence: str) -> bool:
    # Words of the tokenizer never contain a space.
    return max(map(len, sentence.split(" "))) * _MAX_EXPANSION > MAX_WORD_CHARACTERS


def _without_long_words(sentence: str, tokenizer: Tokenizer) -> str:
    words = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(sentence))
    return " ".join(word for word, _ in words if len(word) <= MAX_WORD_CHARACTERS)


def _can_continue_word(character: str, tokenizer: Tokenizer) -> bool:
    """Return False for characters that are separate words: punctuation and Chinese characters."""
    text = tokenizer.normalizer.normalize_str(f"a{character}")
    return len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) == 1


class _SampleReader:
    """Reader for the sentences of a sample of the corpus, with one row group in memory at a time."""

    def __init__(self, corpus: Corpus, config: TrainTokenizerConfig) -> None:
        self._corpus, self._config = corpus, config
        self.documents = self.sentences = self.words = 0
        self._statistics_sentences: list[str] = []

    def batches(self, label: str) -> Iterator[list[str]]:
        row = 0
        with Progress(label, total=self._corpus.documents, unit="documents") as progress:
            for name, rows in self._corpus.files.items():
                for documents in read_sentences(storage.join(self._corpus.folder, name), 0, rows):
                    selected = np.flatnonzero(_in_sample(np.arange(row, row + len(documents)), self._config))
                    row += len(documents)
                    yield self._count([documents[index] for index in selected.tolist()])
                    progress.advance_to(row, f"{self.words:,} words")

    def _count(self, documents: list[list[str]]) -> list[str]:
        """Count the documents, and return their sentences."""
        batch = list(chain.from_iterable(documents))
        self.documents += len(documents)
        self.sentences += len(batch)
        self.words += count_words(batch)
        self._statistics_sentences += batch[: _STATISTICS_SENTENCES - len(self._statistics_sentences)]
        return batch

    def tokens_per_word(self, tokenizer: Tokenizer) -> float:
        encodings = tokenizer.encode_batch_fast(self._statistics_sentences, add_special_tokens=False)
        return sum(map(len, encodings)) / count_words(self._statistics_sentences)

    def stripped_fraction(self, tokenizer: Tokenizer) -> float:
        """Return the number of accents and vowel signs that the normalizer removes, per remaining letter."""
        text = "".join(self._statistics_sentences)
        marks = sum(unicodedata.category(char) == "Mn" for char in unicodedata.normalize("NFD", text))
        normal = unicodedata.normalize("NFD", tokenizer.normalizer.normalize_str(text))
        remaining = sum(unicodedata.category(char) == "Mn" for char in normal)
        return (marks - remaining) / max(1, sum(map(str.isalpha, normal)))


def _in_sample(rows: NDArray[np.int64], config: TrainTokenizerConfig) -> NDArray[np.bool_]:
    return uniform(hash_integers(config.seed, _SAMPLE, rows)) < config.sample_fraction


def _bert_tokenizer(vocabulary: dict[str, int], config: TrainTokenizerConfig) -> Tokenizer:
    """Return a tokenizer with BERT's rules (Devlin et al. 2018): split at spaces and punctuation, match greedily."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.lower_case, strip_accents=config.strip_accents)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    if vocabulary:
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
        )
    return tokenizer


def _files(tokenizer_json: str, config: TrainTokenizerConfig) -> dict[str, str]:
    """Return the content of the output files by name."""
    tokenizer = build_tokenizer(tokenizer_json)
    normalizer = tokenizer.normalizer
    tokens = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": getattr(normalizer, "lowercase", config.lower_case),
        "strip_accents": getattr(normalizer, "strip_accents", config.strip_accents),
        "model_max_length": config.max_seq_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **{f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS},
    }
    return {
        VOCABULARY_FILE: "".join(f"{token}\n" for token, _ in tokens),
        TOKENIZER_CONFIG_FILE: json.dumps(settings, indent=1),
        TOKENIZER_FILE: tokenizer_json,
    }


def _rebatch(stop: threading.Event, batches: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield small batches until `stop` is set, because the trainer holds many batches in memory at once."""
    for batch in batches:
        for start in range(0, len(batch), _TRAINER_BATCH):
            if stop.is_set():
                return
            yield batch[start : start + _TRAINER_BATCH]
