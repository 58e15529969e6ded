import math

import pytest

from distilray.evaluation.bias.likelihood import MaskedText, log_probabilities, top_tokens
from tests.distilray.evaluation.bias.table_model import TOKENIZER, TOKENS, TableModel, token_ids

MODEL = {("a", "nurse"): 0.5, ("a", "doctor"): 0.25, ("is", "a"): 0.8}


def text(words, *targets):
    tokens = ["[CLS]", *words.split(), "[SEP]"]
    positions = tuple(position for position, token in enumerate(tokens) if token == "[MASK]")
    return MaskedText(token_ids(*tokens), positions, token_ids(*targets))


TEXTS = [text("he is a [MASK]", "nurse"), text("is [MASK] a [MASK] .", "a", "doctor"), text("a [MASK]", "doctor")]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_log_probabilities_are_in_the_order_of_the_texts_and_masks(batch_size):
    values = log_probabilities(TableModel(MODEL), TEXTS, pad_id=TOKENIZER.pad_id, batch_size=batch_size)
    for own, shares in zip(values, [[0.5], [0.8, 0.25], [0.25]], strict=True):
        assert own == pytest.approx([math.log(share) for share in shares], rel=1e-5)


def test_an_equal_text_is_scored_once_but_counted_each_time():
    model, finished, texts = TableModel(MODEL), [], [TEXTS[0], TEXTS[2], TEXTS[0]]
    values = log_probabilities(model, texts, pad_id=TOKENIZER.pad_id, batch_size=8, advance=finished.append)
    assert (model.predicted, sum(finished)) == (2, 3)
    assert values[0] is values[2]


def test_the_most_probable_tokens_are_returned_in_order():
    (best,) = top_tokens(TableModel(MODEL), TEXTS[2:], 2, pad_id=TOKENIZER.pad_id, batch_size=8)
    assert best[0] == (TOKENS.index("nurse"), pytest.approx(0.5))
    assert best[1][1] == pytest.approx(0.25)
    (every,) = top_tokens(TableModel(MODEL), TEXTS[:1], 10_000, pad_id=TOKENIZER.pad_id, batch_size=8)
    assert len(every) == len(TOKENS)
    assert sum(score for _, score in every) == pytest.approx(1.0, abs=1e-5)
