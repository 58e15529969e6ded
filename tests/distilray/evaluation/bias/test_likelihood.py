import math

import pytest

from distilray.evaluation.bias.likelihood import MaskedText, log_probabilities, top_tokens
from tests.distilray.evaluation.bias.table_model import TOKENIZER, TOKENS, TableModel, token_ids

MODEL = {("a", "nurse"): 0.5, ("a", "doctor"): 0.25, ("is", "a"): 0.8}


def text(*tokens: str, targets: tuple[str, ...]) -> MaskedText:
    ids = token_ids(*tokens)
    places = tuple(place for place, token in enumerate(tokens) if token == "[MASK]")
    return MaskedText(ids, places, token_ids(*targets))


TEXTS = [
    text("[CLS]", "he", "is", "a", "[MASK]", "[SEP]", targets=("nurse",)),
    text("[CLS]", "is", "[MASK]", "a", "[MASK]", ".", "[SEP]", targets=("a", "doctor")),
    text("[CLS]", "a", "[MASK]", "[SEP]", targets=("doctor",)),
]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_log_probabilities_come_in_the_order_of_the_texts_and_of_their_masks(batch_size):
    found = log_probabilities(TableModel(MODEL), TEXTS, pad_id=TOKENIZER.pad_id, batch_size=batch_size)
    expected = [[0.5], [0.8, 0.25], [0.25]]
    for values, shares in zip(found, expected, strict=True):
        assert values == pytest.approx([math.log(share) for share in shares], rel=1e-5)


def test_an_equal_text_is_asked_once_and_counted_as_often_as_it_stands_there():
    model, done = TableModel(MODEL), []
    found = log_probabilities(
        model, [TEXTS[0], TEXTS[2], TEXTS[0]], pad_id=TOKENIZER.pad_id, batch_size=8, advance=done.append
    )
    assert model.asked == 2
    assert sum(done) == 3
    assert found[0] is found[2]


def test_the_best_tokens_come_with_their_probabilities_the_best_first():
    (found,) = top_tokens(TableModel(MODEL), TEXTS[2:], 2, pad_id=TOKENIZER.pad_id, batch_size=8)
    assert found[0] == (TOKENS.index("nurse"), pytest.approx(0.5))
    assert found[1][1] == pytest.approx(0.25)


def test_more_answers_than_there_are_tokens_are_all_of_them():
    (found,) = top_tokens(TableModel(MODEL), TEXTS[:1], 10_000, pad_id=TOKENIZER.pad_id, batch_size=8)
    assert len(found) == len(TOKENS)
    assert sum(score for _, score in found) == pytest.approx(1.0, abs=1e-5)
