"""BERT's pretraining data in plain Python with one process, as a baseline for `jobs.encode_corpus`.

Implements the algorithm described by its authors (Devlin et al. 2018, section 3.1 and appendix A.2): basic tokens,
greedy longest-match-first word pieces, pairs filled to a length, a random next segment in half of the pairs, and 15% of
the tokens masked.
"""

import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO

MAX_WORD = 100


class Example(NamedTuple):
    """A masked sentence pair."""

    tokens: list[str]
    segment_ids: list[int]
    is_random_next: bool
    masked_positions: list[int]
    masked_labels: list[str]


def basic_tokens(text: str) -> list[str]:
    """Split a text into words, punctuation and Chinese characters, lower-cased and without accents."""
    tokens: list[str] = []
    for word in _space_chinese(_clean(text)).split():
        tokens += _split_at_punctuation(_without_accents(word.lower()))
    return tokens


def _clean(text: str) -> str:
    """Remove control characters and replace white space by spaces."""
    clean: list[str] = []
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            clean.append(" ")
        elif char not in "\0\ufffd" and not unicodedata.category(char).startswith("C"):
            clean.append(char)
    return "".join(clean)


def _space_chinese(text: str) -> str:
    return "".join(f" {char} " if _is_chinese(ord(char)) else char for char in text)


def _without_accents(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


def _split_at_punctuation(word: str) -> list[str]:
    tokens: list[str] = []
    starts_word = True
    for char in word:
        if _is_punctuation(char):
            tokens.append(char)
            starts_word = True
        elif starts_word:
            tokens.append(char)
            starts_word = False
        else:
            tokens[-1] += char
    return tokens


def _is_chinese(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(char)[0] == "P"


def word_pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Split a word into the longest matching pieces of the vocabulary, from left to right."""
    if len(word) > MAX_WORD:
        return ["[UNK]"]
    pieces: list[str] = []
    start, length = 0, len(word)
    while start < length:
        end = length
        while start < end:
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocabulary:
                break
            end -= 1
        else:
            return ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces


def tokenize(text: str, vocabulary: Mapping[str, int]) -> list[str]:
    return [piece for word in basic_tokens(text) for piece in word_pieces(word, vocabulary)]


def examples(
    documents: Sequence[Sequence[str]],
    vocabulary: Mapping[str, int],
    *,
    max_seq_length: int,
    dupe_factor: int = 1,
    short_seq_prob: float = 0.1,
    masked_lm_prob: float = 0.15,
    seed: int = 1,
) -> Iterator[Example]:
    """Yield the masked pairs of all documents, after tokenizing them in memory as the algorithm requires."""
    rng = random.Random(seed)
    tokenized = [[tokens for text in document if (tokens := tokenize(text, vocabulary))] for document in documents]
    tokenized = [document for document in tokenized if document]
    words = list(vocabulary)
    for _ in range(dupe_factor):
        for index in range(len(tokenized)):
            for a, b, is_random in _pairs(tokenized, index, max_seq_length - 3, short_seq_prob, rng):
                yield _masked(a, b, is_random, words, masked_lm_prob, rng)


def write_examples(pairs: Iterable[Example], vocabulary: Mapping[str, int], file: TextIO) -> int:
    """Write examples as JSON lines with token ids, without padding, and return their number."""
    number = 0
    for example in pairs:
        row = {
            "input_ids": [vocabulary[token] for token in example.tokens],
            "segment_ids": example.segment_ids,
            "masked_lm_positions": example.masked_positions,
            "masked_lm_ids": [vocabulary[token] for token in example.masked_labels],
            "next_sentence_label": int(example.is_random_next),
        }
        file.write(json.dumps(row) + "\n")
        number += 1
    return number


def _pairs(
    documents: Sequence[list[list[str]]], index: int, max_tokens: int, short_seq_prob: float, rng: random.Random
) -> Iterator[tuple[list[str], list[str], bool]]:
    document = documents[index]
    target = rng.randint(2, max_tokens) if rng.random() < short_seq_prob else max_tokens
    chunk: list[list[str]] = []
    length = i = 0
    while i < len(document):
        chunk.append(document[i])
        length += len(document[i])
        if i == len(document) - 1 or length >= target:
            a_end = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
            a = [token for sentence in chunk[:a_end] for token in sentence]
            b: list[str] = []
            is_random = len(chunk) == 1 or rng.random() < 0.5
            if is_random:
                other = index
                while other == index and len(documents) > 1:
                    other = rng.randrange(len(documents))
                start = rng.randrange(len(documents[other]))
                for sentence in documents[other][start:]:
                    b.extend(sentence)
                    if len(b) >= target - len(a):
                        break
                i -= len(chunk) - a_end  # use the remaining sentences again
            else:
                b = [token for sentence in chunk[a_end:] for token in sentence]
            _trim(a, b, max_tokens, rng)
            yield a, b, is_random
            chunk, length = [], 0
        i += 1


def _trim(a: list[str], b: list[str], max_tokens: int, rng: random.Random) -> None:
    while len(a) + len(b) > max_tokens:
        longer = a if len(a) > len(b) else b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def _masked(
    a: list[str], b: list[str], is_random: bool, words: Sequence[str], masked_lm_prob: float, rng: random.Random
) -> Example:
    tokens = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
    segment_ids = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    candidates = [position for position, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    rng.shuffle(candidates)
    chosen = sorted(candidates[: max(1, round(len(tokens) * masked_lm_prob))])
    labels = [tokens[position] for position in chosen]
    for position in chosen:
        action = rng.random()
        if action < 0.8:
            tokens[position] = "[MASK]"
        elif action >= 0.9:
            tokens[position] = rng.choice(words)
    return Example(tokens, segment_ids, is_random, chosen, labels)
