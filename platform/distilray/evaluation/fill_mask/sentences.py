"""Held-out sentences with one masked word and the best answers of each model, to read next to the scores."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from distilray.evaluation.bias.likelihood import MaskedText, top_tokens
from distilray.evaluation.fill_mask.examples import MaskedExample, fill_masks
from distilray.inference.backends import TorchMaskedLM
from distilray.pretraining_data.batches import Batch
from distilray.pretraining_data.tokenizer import build_tokenizer, vocabulary_of

SENTENCES_FILE = "sentences.jsonl"
_SENTENCES = 10
_ANSWERS = 3  # of each model per sentence
_SEARCHED_ROWS = 1000  # rows without a suitable sentence are skipped, but a file may have no other rows
_LETTERS = range(4, 16)  # of a masked word; shorter words are mostly function words
_CHARACTERS = range(40, 180)  # of a sentence
_MASK = "[MASK]"
_WHOLE_WORD = re.compile(r"(?<!\w)(?<!- )\[MASK\](?!\w| -)")
_BOUNDARY = re.compile(r"(?<=\w\w\w[.!?])\s+|\s*\[(?:SEP|CLS)\]\s*")  # not after "u. s." or "mr."
# Spaces that decoding adds: "it ' s well - known ( in 1918 )".
_ADDED_SPACES = re.compile(
    r"(?<=[\w\]]) (?=['\u2019] (?:s|t|re|ve|ll|d|m)\b)|(?<=[\w\]] ['\u2019]) (?=(?:s|t|re|ve|ll|d|m)\b)"
    r"|(?<=\() | (?=\))|(?<=\w) (?=- \w)|(?<=\w -) (?=\w)"
)


class MaskedSentence(NamedTuple):
    """A text with one `[MASK]` and the true word at the mask."""

    text: str
    answer: str


def mask_each_token(batch: Batch, tokenizer_json: str) -> Iterator[MaskedSentence]:
    """Yield the text of a batch of one example once per token to predict, with only that token masked."""
    tokenizer, mask_id = build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json).mask
    original = batch.input_ids.reshape(-1).copy()
    original[batch.mask_index] = batch.mask_labels
    for index, label in zip(batch.mask_index, batch.mask_labels.tolist(), strict=True):
        ids = original.copy()
        ids[index] = mask_id
        text = tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        yield MaskedSentence(_ADDED_SPACES.sub("", text), tokenizer.id_to_token(label) or "")


def mask_each_answer(example: MaskedExample) -> Iterator[MaskedSentence]:
    """Yield the text of an example once per mask, with the true answers at the other masks."""
    for number, answer in enumerate(example.answers):
        if len(example.answers) == len(example.fragments) - 1:
            words = [*example.answers[:number], _MASK, *example.answers[number + 1 :]]
            yield MaskedSentence(fill_masks(example.fragments, words), answer.strip())


def choose_sentences(
    rows: Iterable[Iterable[MaskedSentence]], tokenizer_json: str, *, max_length: int
) -> list[MaskedSentence]:
    """Return a complete sentence from each of the first rows that have one whose masked word is a single token.

    Args:
        rows: for each row, its text with another mask each time.
        tokenizer_json: tokenizer of the models.
        max_length: maximum number of tokens in a sentence, including special tokens.
    """
    tokenizer = build_tokenizer(tokenizer_json)

    def is_suitable(sentence: MaskedSentence) -> bool:
        text, answer = sentence
        return (
            len(text) in _CHARACTERS
            and text[0].isalnum()
            and text[-1] in ".!?"
            and text.count("[") == 1  # no other mask and no unknown token
            and _WHOLE_WORD.search(text) is not None
            and len(answer) in _LETTERS
            and answer.isalpha()
            and len(tokenizer.encode(answer, add_special_tokens=False).ids) == 1
            and len(tokenizer.encode(text).ids) <= max_length
        )

    by_row = (filter(is_suitable, map(_cut, texts)) for texts in islice(rows, _SEARCHED_ROWS))
    return list(islice((sentence for suitable in by_row if (sentence := next(suitable, None))), _SENTENCES))


def best_answers(model: Any, sentences: Sequence[MaskedSentence], tokenizer_json: str) -> list[list[dict[str, Any]]]:
    """Return the most probable tokens of a model for each sentence, with their probabilities, best first."""
    tokenizer, vocabulary = build_tokenizer(tokenizer_json), vocabulary_of(tokenizer_json)
    ids = [tokenizer.encode(sentence.text).ids for sentence in sentences]
    texts = [MaskedText(tuple(row), (row.index(vocabulary.mask),), ()) for row in ids]
    best = top_tokens(TorchMaskedLM(model), texts, _ANSWERS, pad_id=vocabulary.pad, batch_size=_SENTENCES)
    return [[{"token": tokenizer.id_to_token(token), "score": score} for token, score in row] for row in best]


def sentence_rows(
    sentences: Sequence[MaskedSentence], answers: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
) -> list[dict[str, Any]]:
    """Return the rows of `sentences.jsonl`; `answers` has the result of `best_answers` by model."""
    return [
        {**sentence._asdict(), "answers": {name: rows[number] for name, rows in answers.items()}}
        for number, sentence in enumerate(sentences)
    ]


def _cut(masked: MaskedSentence) -> MaskedSentence:
    """Shorten the text to the sentence with the mask."""
    sentence = next(part for part in _BOUNDARY.split(masked.text) if part and _MASK in part)
    return MaskedSentence(sentence.strip(), masked.answer)
