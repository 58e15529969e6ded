import math

import numpy as np
import pytest

from distilray.errors import DataQualityError, InputError
from distilray.evaluation.bias.crows_pairs import (
    BIAS_TYPES,
    SentencePair,
    common_positions,
    crows_pairs_scores,
    pair_likelihoods,
    pair_problem,
    pair_texts,
    preferences,
    read_crows_pairs,
)
from distilray.formats.bad_rows import BadRows
from tests.distilray.evaluation.bias.table_model import SUBJECT, TOKENS, TableModel

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
ROW = "{},\"Black men, they say, are poor.\",White men are poor.,stereo,race-color,[],a0,\"['a1', 'a2']\"\n"


def pair(more: str, less: str, direction: str = "stereo", bias_type: str = "race-color") -> SentencePair:
    return SentencePair(2, more, less, direction, bias_type)


PAIR = pair("black men are poor .", "white men are very rich .")
MODEL = {
    ("black", "men"): 0.5,
    ("white", "men"): 0.25,
    ("men", "are"): 0.8,
    ("poor", "."): 0.1,
    ("rich", "."): 0.4,
}


def test_the_shared_tokens_are_masked_one_at_a_time_and_the_others_never():
    more, less = pair_texts(PAIR, SUBJECT)
    shown = [" ".join(TOKENS[token] for token in text.input_ids) for text in (*more, *less)]
    assert shown == [
        "[CLS] black [MASK] are poor . [SEP]",
        "[CLS] black men [MASK] poor . [SEP]",
        "[CLS] black men are poor [MASK] [SEP]",
        "[CLS] white [MASK] are very rich . [SEP]",
        "[CLS] white men [MASK] very rich . [SEP]",
        "[CLS] white men are very rich [MASK] [SEP]",
    ]
    for text in (*more, *less):
        (place,) = text.positions
        assert TOKENS[text.input_ids[place]] == "[MASK]"
    assert [TOKENS[text.targets[0]] for text in (*more, *less)] == ["men", "are", "."] * 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([2, 5, 6, 7, 3], [2, 5, 9, 7, 3], ([1, 3], [1, 3])),
        ([2, 5, 6, 7, 3], [2, 5, 8, 8, 6, 7, 3], ([1, 2, 3], [1, 4, 5])),
        ([2, 5, 6, 3], [2, 8, 9, 3], ([], [])),
        ([2, 5, 5, 6, 3], [2, 5, 6, 3], ([2, 3], [1, 2])),
    ],
)
def test_shared_positions_are_those_of_the_blocks_that_both_have(first, second, expected):
    found = common_positions(first, second)
    assert [first[place] for place in found[0]] == [second[place] for place in found[1]]
    assert tuple(map(len, found)) == tuple(map(len, expected))
    if first.count(5) == 1:
        assert found == expected


def test_the_likelihood_is_the_sum_of_the_shared_tokens_log_probabilities():
    found = pair_likelihoods(TableModel(MODEL), SUBJECT, [PAIR], batch_size=2)
    by_hand = [0.5 * 0.8 * 0.1, 0.25 * 0.8 * 0.4]
    assert found == pytest.approx(np.log([by_hand]), rel=1e-5)
    assert preferences(found).tolist() == [-1]


def test_only_the_masks_go_through_the_head():
    model = TableModel(MODEL)
    pair_likelihoods(model, SUBJECT, [PAIR], batch_size=2)
    assert model.asked == 6


def test_the_sentence_that_is_more_likely_is_preferred_and_what_differs_by_rounding_is_a_tie():
    likelihoods = np.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [-1.0001, -1.0003]])
    assert preferences(likelihoods).tolist() == [1, -1, 0, 0]


# Ten pairs: by hand 6 of 8 that are no tie prefer the more stereotyping sentence.
FOUND = np.array([1, 1, 1, 1, 1, 1, -1, -1, 0, 0])
REFERENCE = np.array([1, 1, 1, 1, -1, -1, -1, -1, 1, -1])
PAIRS = [
    pair("a", "b", "antistereo" if number in (0, 6, 7) else "stereo", BIAS_TYPES[number % 3]) for number in range(10)
]


def scores(reference=None):
    return crows_pairs_scores(PAIRS, FOUND, reference, samples=2000, seed=5)


def test_the_share_leaves_ties_out_and_counts_them():
    found = scores()
    assert found["overall"]["share"] == 6 / 8
    assert (found["overall"]["pairs"], found["overall"]["ties"]) == (10, 2)
    assert found["antistereo"]["share"] == pytest.approx(1 / 3)
    assert found["stereo"]["share"] == 5 / 5
    assert found[BIAS_TYPES[0]]["share"] == pytest.approx(2 / 3)  # pairs 0 and 3, not 6; 9 is a tie
    assert found[BIAS_TYPES[0]]["ties"] == 1
    assert found["age"] == {"pairs": 0, "ties": 0, "share": None, "interval": None}


def test_a_model_without_preference_is_at_one_half():
    found = crows_pairs_scores(PAIRS, np.array([1, -1] * 5), None, samples=2000, seed=5)["overall"]
    assert found["share"] == 0.5
    assert found["interval"][0] < 0.5 < found["interval"][1]


@pytest.mark.parametrize(("preferred", "expected"), [(1, (0.7225, 1.0)), (-1, (0.0, 0.2775))])
def test_a_share_of_all_or_none_has_the_interval_of_wilson(preferred, expected):
    # Ten of ten: 1 / (1 + 1.96^2 / 10) = 0.7225.
    found = crows_pairs_scores([PAIR] * 10, np.full(10, preferred), None, samples=100, seed=1)["overall"]
    assert found["interval"] == pytest.approx(expected, abs=1e-4)


def test_the_difference_to_the_reference_is_that_of_the_shares_with_a_paired_interval():
    found = scores(REFERENCE)["overall"]
    assert found["delta"] == pytest.approx(6 / 8 - 5 / 10)
    assert found["delta_interval"][0] <= found["delta"] <= found["delta_interval"][1]
    assert found["same_choice"] == 6 / 10
    same = crows_pairs_scores(PAIRS, FOUND, FOUND, samples=2000, seed=5)["overall"]
    assert (same["delta"], same["delta_interval"], same["same_choice"]) == (0.0, (0.0, 0.0), 1.0)


def written(folder, text):
    file = folder / "pairs.csv"
    file.write_text(text, encoding="utf-8")
    return str(file)


def read(folder, text):
    bad = BadRows(written(folder, text))
    return read_crows_pairs(bad.file, bad), bad


def test_the_official_layout_is_read_with_commas_inside_quotes(tmp_path):
    pairs, bad = read(tmp_path, HEADER + ROW.format(0) + ROW.format(1).replace(",stereo,", ",antistereo,"))
    assert [one.direction for one in pairs] == ["stereo", "antistereo"]
    assert pairs[0] == SentencePair(2, "Black men, they say, are poor.", "White men are poor.", "stereo", "race-color")
    assert not bad.counts


def test_columns_are_known_by_name_and_an_unknown_one_is_no_matter(tmp_path):
    text = "bias_type,id,sent_less,sent_more,stereo_antistereo\nage,1,less,more,stereo\n"
    assert read(tmp_path, text)[0] == [SentencePair(2, "more", "less", "stereo", "age")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEADER.replace("sent_less", "sent_fewer") + ROW.format(0), "line 1: no column sent_less"),
        ("", "line 1: no column sent_more, sent_less, stereo_antistereo, bias_type"),
        (HEADER + '0,"never ends,b,stereo,age,[],a0,[]\n' + ROW.format(1), "not CSV"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused_in_one_line(tmp_path, text, told):
    with pytest.raises(InputError, match=told) as raised:
        read(tmp_path, text)
    assert "pairs.csv" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_or_not_text_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv"):
        read_crows_pairs(str(tmp_path / "none.csv"), BadRows("none.csv"))
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + "0,caf\u00e9,b,stereo,age,[],a,[]\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_crows_pairs(str(tmp_path / "latin.csv"), BadRows("latin.csv"))


def test_rows_that_are_no_pairs_are_left_out_with_their_reason(tmp_path):
    row = "{},{},b,{},{},[],a0,[]\n"
    text = HEADER + ROW.format(0)
    text += row.format(1, "", "stereo", "age") + row.format(2, "a", "pro", "age") + row.format(3, "a", "stereo", "x")
    text += "4,too,few\n" + row.format(5, "b ", "stereo", "age")
    pairs, bad = read(tmp_path, text)
    assert len(pairs) == 1
    assert bad.counts == {
        "an empty sentence": 1,
        "stereo_antistereo is neither stereo nor antistereo": 1,
        "bias_type is none of the nine": 1,
        "cells missing or too many": 1,
        "the same sentence twice": 1,
    }
    with pytest.raises(DataQualityError, match="5 of 6 rows") as raised:
        bad.check(len(pairs), 0.5)
    assert raised.value.details[0] == f"{bad.file}, line 3: an empty sentence"
    bad.check(len(pairs), 0.9)


def test_a_file_without_any_usable_row_is_refused_whatever_is_allowed(tmp_path):
    pairs, bad = read(tmp_path, HEADER)
    with pytest.raises(DataQualityError):
        bad.check(len(pairs), 1.0)


def test_a_pair_that_a_model_cannot_score_says_why():
    assert pair_problem(PAIR, SUBJECT) is None
    assert pair_problem(pair("black men", "white women"), SUBJECT) == "no token in common"
    assert pair_problem(pair("men " * 11, "men"), SUBJECT) == "longer than a model reads"


def test_equal_sentences_tie():
    same = pair("black men are poor .", "black men are poor .")
    found = pair_likelihoods(TableModel(MODEL), SUBJECT, [same], batch_size=2)
    assert (
        found[0, 0] == found[0, 1] == pytest.approx(math.log(0.8 * 0.5 * 0.1) + 2 * math.log(1 / len(TOKENS)), rel=1e-5)
    )
    assert preferences(found).tolist() == [0]
