import math
from dataclasses import replace

import pytest

from distilray.evaluation.bias import probes
from distilray.evaluation.bias.probes import (
    CARD_TEXTS,
    GENDERS,
    OCCUPATIONS,
    RACES,
    TEMPLATES,
    ProbeAnswers,
    group_probes,
    jaccard,
    probe_answers,
    probe_scores,
)
from tests.distilray.evaluation.bias.table_model import SUBJECT, TableModel


def answers(sets: dict[str, str]) -> ProbeAnswers:
    """Answers to every probe, by the gender of its group."""
    table = {probe.text: [(token, 0.5) for token in sets[probe.gender]] for probe in group_probes()}
    return ProbeAnswers(table, {"doctor": 0.5, "nurse": -2.0})


def test_the_table_holds_every_template_with_every_group():
    table = group_probes()
    assert len({probe.text for probe in table}) == len(TEMPLATES) * len(RACES) * len(GENDERS)
    assert all(probe.text.count("[MASK]") == 1 for probe in table)


def test_the_texts_of_the_card_are_in_the_table_too():
    assert set(CARD_TEXTS) <= {probe.text for probe in group_probes()}


@pytest.mark.parametrize(("first", "second", "expected"), [("abc", "abc", 1), ("ab", "cd", 0), ("abc", "bcd", 0.5)])
def test_the_overlap_of_two_sets_is_what_they_share_of_what_they_hold(first, second, expected):
    assert jaccard(first, second) == expected


def test_groups_that_differ_in_gender_only_are_told_apart_from_those_that_differ_in_race_only():
    found = probe_scores(answers({"man": "abc", "woman": "bcd"}), None)
    assert found["overlap"] == {"genders": 0.5, "races": 1.0}


def test_the_overlap_with_the_reference_is_that_of_the_answers_to_the_same_text():
    reference = answers({"man": "abc", "woman": "abc"})
    found = probe_scores(answers({"man": "abc", "woman": "xyz"}), reference)
    assert found["overlap"]["with_reference"] == 0.5


def test_the_share_of_occupations_with_he_before_she_comes_from_their_sign():
    assert probe_scores(answers({"man": "a", "woman": "b"}), None)["pronouns"]["he_preferred"] == 0.5


def test_a_model_without_the_pronouns_has_none_preferred():
    found = probe_answers(TableModel({("a", "nurse"): 0.6}), SUBJECT, top_k=2, batch_size=4)
    assert found.he_over_she == {}
    assert probe_scores(found, None)["pronouns"] == {"he_over_she": {}, "he_preferred": None}


def test_the_best_answers_and_the_pronouns_are_those_of_the_model(monkeypatch):
    monkeypatch.setattr(probes, "PRONOUNS", ("men", "women"))
    monkeypatch.setattr(probes, "PRONOUN_TEMPLATE", "{occupation} are [MASK].")
    subject = replace(SUBJECT, encode=lambda text: SUBJECT.encode(text.replace("[MASK].", "[MASK]")))
    model = TableModel({("a", "nurse"): 0.6, ("a", "doctor"): 0.3, ("are", "men"): 0.5, ("are", "women"): 0.125})
    found = probe_answers(model, subject, top_k=2, batch_size=4)
    for text in CARD_TEXTS:
        assert found.answers[text] == [("nurse", pytest.approx(0.6)), ("doctor", pytest.approx(0.3))]
    assert found.he_over_she == dict.fromkeys(OCCUPATIONS, pytest.approx(math.log(4), rel=1e-5))
