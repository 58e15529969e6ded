"""BERT's pretraining data in plain Python, one process: what encoding is measured against.

Written from the algorithm as its authors describe it (Devlin et al. 2018, section 3.1 and appendix A.2): basic tokens,
longest pieces first, pairs filled to a length, a random next segment in half of them, 15% of the tokens predicted.
"""

import json
import random
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO

MAX_WORD = 100


class Example(NamedTuple):
    """A masked pair."""

    tokens: list[str]
    segment_ids: list[int]
    is_random_next: bool
    masked_positions: list[int]
    masked_labels: list[str]


def basic_tokens(text: str) -> list[str]:
    """Words, punctuation and Chinese signs, lower-cased and without accents: one step after the other."""
    tokens: list[str] = []
    for word in _spaced_chinese(_cleaned(text)).split():
        tokens += _split_at_punctuation(_without_accents(word.lower()))
    return tokens


def _cleaned(text: str) -> str:
    """Without control signs, and any white space as a space."""
    clean: list[str] = []
    for sign in text:
        if sign in "\t\n\r" or unicodedata.category(sign) == "Zs":
            clean.append(" ")
        elif sign not in "\0\ufffd" and not unicodedata.category(sign).startswith("C"):
            clean.append(sign)
    return "".join(clean)


def _spaced_chinese(text: str) -> str:
    return "".join(f" {sign} " if _is_chinese(ord(sign)) else sign for sign in text)


def _without_accents(word: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFD", word) if unicodedata.category(sign) != "Mn")


def _split_at_punctuation(word: str) -> list[str]:
    tokens: list[str] = []
    begins = True
    for sign in word:
        if _is_punctuation(sign):
            tokens.append(sign)
            begins = True
        elif begins:
            tokens.append(sign)
            begins = False
        else:
            tokens[-1] += sign
    return tokens


def _is_chinese(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )


def _is_punctuation(sign: str) -> bool:
    code = ord(sign)
    if 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126:
        return True
    return unicodedata.category(sign)[0] == "P"


def word_pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """The longest piece of the vocabulary first, then the longest of the rest."""
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


def tokenise(text: str, vocabulary: Mapping[str, int]) -> list[str]:
    """The pieces of a text."""
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
    """The masked pairs of all documents; they are tokenised in memory first, as the algorithm asks."""
    rng = random.Random(seed)
    found = [[tokens for text in document if (tokens := tokenise(text, vocabulary))] for document in documents]
    found = [document for document in found if document]
    words = list(vocabulary)
    for _ in range(dupe_factor):
        for index in range(len(found)):
            for a, b, is_random in _pairs(found, index, max_seq_length - 3, short_seq_prob, rng):
                yield _masked(a, b, is_random, words, masked_lm_prob, rng)


def write_examples(found: Iterable[Example], vocabulary: Mapping[str, int], file: TextIO) -> int:
    """Writes examples as JSON lines of ids, not padded; returns their number."""
    number = 0
    for example in found:
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
                i -= len(chunk) - a_end  # what was not used comes again
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
    candidates = [place for place, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    rng.shuffle(candidates)
    chosen = sorted(candidates[: max(1, round(len(tokens) * masked_lm_prob))])
    labels = [tokens[place] for place in chosen]
    for place in chosen:
        action = rng.random()
        if action < 0.8:
            tokens[place] = "[MASK]"
        elif action >= 0.9:
            tokens[place] = rng.choice(words)
    return Example(tokens, segment_ids, is_random, chosen, labels)
