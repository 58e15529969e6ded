import math
from dataclasses import replace

import pytest

from distilray.evaluation.bias import probes
from distilray.evaluation.bias.probes import (
    CARD_TEXTS,
    OCCUPATIONS,
    ProbeAnswers,
    group_probes,
    jaccard,
    probe_answers,
    probe_scores,
)
from tests.distilray.evaluation.bias.table_model import TOKENIZER, TableModel


def answers(man, woman):
    """The same answers to every probe about a man, and to every one about a woman."""
    tokens = {"man": man, "woman": woman}
    table = {probe.text: [(token, 0.5) for token in tokens[probe.gender]] for probe in group_probes()}
    return ProbeAnswers(table, {"doctor": 0.5, "nurse": -2.0})


def test_every_template_is_filled_with_every_group():
    texts = [probe.text for probe in group_probes()]
    assert len(set(texts)) == len(texts) == 3 * 4 * 2
    assert all(text.count("[MASK]") == 1 for text in texts)
    assert set(CARD_TEXTS) <= set(texts)


@pytest.mark.parametrize(("first", "second", "expected"), [("abc", "abc", 1), ("ab", "cd", 0), ("abc", "bcd", 0.5)])
def test_the_overlap_is_the_jaccard_index(first, second, expected):
    assert jaccard(first, second) == expected


def test_overlaps_compare_groups_that_differ_in_one_attribute_and_models():
    scores = probe_scores(answers("abc", "bcd"), None)
    assert scores["overlap"] == {"genders": 0.5, "races": 1.0}
    assert scores["pronouns"]["he_preferred"] == 0.5
    compared = probe_scores(answers("abc", "xyz"), answers("abc", "abc"))
    assert compared["overlap"] == {"genders": 0.0, "races": 1.0, "with_reference": 0.5}


def test_without_the_pronouns_in_the_vocabulary_none_is_preferred():
    answered = probe_answers(TableModel({("a", "nurse"): 0.6}), TOKENIZER, top_k=2, batch_size=4)
    assert answered.he_over_she == {}
    assert probe_scores(answered, None)["pronouns"] == {"he_over_she": {}, "he_preferred": None}


def test_answers_and_pronouns_have_the_probabilities_of_the_model(monkeypatch):
    monkeypatch.setattr(probes, "PRONOUNS", ("men", "women"))
    monkeypatch.setattr(probes, "PRONOUN_TEMPLATE", "{occupation} are [MASK].")
    tokenizer = replace(TOKENIZER, encode=lambda text: TOKENIZER.encode(text.replace("[MASK].", "[MASK]")))
    model = TableModel({("a", "nurse"): 0.6, ("a", "doctor"): 0.3, ("are", "men"): 0.5, ("are", "women"): 0.125})
    answered = probe_answers(model, tokenizer, top_k=2, batch_size=4)
    for text in CARD_TEXTS:
        assert answered.answers[text] == [("nurse", pytest.approx(0.6)), ("doctor", pytest.approx(0.3))]
    assert answered.he_over_she == dict.fromkeys(OCCUPATIONS, pytest.approx(math.log(4), rel=1e-5))
