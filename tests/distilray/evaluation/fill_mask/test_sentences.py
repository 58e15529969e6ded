import numpy as np
import pytest

from distilray.evaluation.fill_mask.examples import MaskedExample
from distilray.evaluation.fill_mask.sentences import (
    MaskedSentence,
    choose_sentences,
    mask_each_answer,
    mask_each_token,
)
from distilray.pretraining_data.batches import Batch
from distilray.pretraining_data.tokenizer import build_tokenizer, read_tokenizer

SENTENCE = "the [MASK] of france is a big city and many people live there."


@pytest.fixture(scope="module")
def tokenizer_json(tokenizer_dir):
    return read_tokenizer(tokenizer_dir)


@pytest.fixture
def choose(tokenizer_json):
    """Choose sentences from rows with one text each, whose masked word is `capital` unless it is given."""

    def choose(*rows, max_length=48):
        texts = [[MaskedSentence(*((row, "capital") if isinstance(row, str) else row))] for row in rows]
        return [tuple(sentence) for sentence in choose_sentences(texts, tokenizer_json, max_length=max_length)]

    return choose


def test_an_example_is_masked_at_each_answer_in_turn():
    example = MaskedExample(1, ("the ", " of ", "."), ("capital", "france"))
    assert list(mask_each_answer(example)) == [
        ("the [MASK] of france.", "capital"),
        ("the capital of [MASK].", "france"),
    ]
    assert list(mask_each_answer(MaskedExample(1, ("the ", " of ", "."), ("capital",)))) == []


def test_a_row_of_a_shard_is_masked_at_each_predicted_token_in_turn(tokenizer_json):
    tokenizer = build_tokenizer(tokenizer_json)
    ids = np.array([tokenizer.encode("the cat's house, paris", "in rome").ids])
    cat, paris = (ids[0].tolist().index(tokenizer.token_to_id(word)) for word in ("cat", "paris"))
    labels = ids[0, [cat, paris]]
    ids[0, [cat, paris]] = tokenizer.token_to_id("[MASK]"), tokenizer.token_to_id("dog")
    batch = Batch(ids, np.ones_like(ids), np.zeros_like(ids), np.array([cat, paris]), labels)
    texts = {sentence.answer: sentence.text for sentence in mask_each_token(batch, tokenizer_json)}
    assert texts["cat"].startswith("[CLS] the [MASK]'s house")
    assert texts["paris"].startswith("[CLS] the cat's house")
    assert all(text.endswith("[SEP] in rome [SEP]") and text.count("[MASK]") == 1 for text in texts.values())


def test_the_sentence_with_the_mask_is_cut_out_of_its_text(choose):
    text = f"[CLS] the sun is old. {SENTENCE} it was a good day. [SEP] one more. [SEP]"
    assert choose(text) == [(SENTENCE, "capital")]
    assert choose(SENTENCE.replace("big", "u. s.")) == [(SENTENCE.replace("big", "u. s."), "capital")]


@pytest.mark.parametrize(
    "row",
    [
        "the [MASK] of france.",  # too short to be interesting
        SENTENCE.removesuffix("."),  # cut off
        (SENTENCE, "sun"),  # a short word
        (SENTENCE, "capitals"),  # two word pieces
        (SENTENCE, "paris rome"),
        SENTENCE.replace("[MASK]", "[MASK]s"),  # a part of a word
        SENTENCE.replace("big", "[MASK]"),
        SENTENCE.replace("big", "[UNK]"),
        SENTENCE.replace("the [MASK]", "new - [MASK]"),
        SENTENCE.replace("the [MASK]", ", the [MASK]"),  # the start of the sentence is missing
        SENTENCE.replace("big", "big " * 40),
    ],
)
def test_other_sentences_are_skipped(choose, row):
    assert choose(row, SENTENCE) == [(SENTENCE, "capital")]


def test_there_is_one_sentence_per_row_and_at_most_ten(choose, tokenizer_json):
    twice = [MaskedSentence(SENTENCE, "capital"), MaskedSentence(SENTENCE, "street")]
    assert choose_sentences([twice], tokenizer_json, max_length=48) == twice[:1]
    assert len(choose(*[SENTENCE] * 12)) == 10


def test_a_sentence_fits_into_the_models(choose):
    tokens = len(SENTENCE.replace(".", " .").split()) + 2
    assert choose(SENTENCE, max_length=tokens) != []
    assert choose(SENTENCE, max_length=tokens - 1) == []
