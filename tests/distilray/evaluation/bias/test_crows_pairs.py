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
from tests.distilray.evaluation.bias.table_model import TOKENIZER, TOKENS, TableModel

HEADER = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
ROW = "{},\"Black men, they say, are poor.\",White men are poor.,stereo,race-color,[],a0,\"['a1', 'a2']\"\n"
MODEL = {
    **{("black", "men"): 0.5, ("white", "men"): 0.25, ("men", "are"): 0.8},
    **{("poor", "."): 0.1, ("rich", "."): 0.4},
}


def pair(more, less, direction="stereo", bias_type="race-color"):
    return SentencePair(2, more, less, direction, bias_type)


PAIR = pair("black men are poor .", "white men are very rich .")


def test_only_the_shared_tokens_are_masked_one_at_a_time():
    more, less = pair_texts(PAIR, TOKENIZER)
    texts = [*more, *less]
    assert [" ".join(TOKENS[token] for token in text.input_ids[1:-1]) for text in texts] == [
        "black [MASK] are poor .",
        "black men [MASK] poor .",
        "black men are poor [MASK]",
        "white [MASK] are very rich .",
        "white men [MASK] very rich .",
        "white men are very rich [MASK]",
    ]
    assert all(TOKENS[text.input_ids[text.positions[0]]] == "[MASK]" for text in texts)
    assert [TOKENS[text.targets[0]] for text in texts] == ["men", "are", "."] * 2


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([2, 5, 6, 7, 3], [2, 5, 9, 7, 3], ([1, 3], [1, 3])),
        ([2, 5, 6, 7, 3], [2, 5, 8, 8, 6, 7, 3], ([1, 2, 3], [1, 4, 5])),
        ([2, 5, 6, 3], [2, 8, 9, 3], ([], [])),
        ([2, 6, 5, 5, 3], [2, 6, 5, 3], ([1, 2], [1, 2])),
    ],
)
def test_shared_positions_belong_to_the_common_blocks(first, second, expected):
    assert common_positions(first, second) == expected


def test_the_likelihood_is_the_sum_of_the_log_probabilities_of_the_shared_tokens():
    model, equal = TableModel(MODEL), pair("black men are poor .", "black men are poor .")
    likelihoods = pair_likelihoods(model, TOKENIZER, [PAIR], batch_size=2)
    assert likelihoods == pytest.approx(np.log([[0.5 * 0.8 * 0.1, 0.25 * 0.8 * 0.4]]), rel=1e-5)
    assert model.predicted == 6  # only the masks go through the head
    uniform = 1 / len(TOKENS)  # of the first word, and of "poor" after "are"
    likelihoods = pair_likelihoods(model, TOKENIZER, [equal], batch_size=2)
    assert likelihoods == pytest.approx(np.log([[0.8 * 0.5 * 0.1 * uniform**2] * 2]), rel=1e-5)
    assert preferences(likelihoods).tolist() == [0]


def test_the_more_likely_sentence_is_preferred_and_a_rounding_difference_is_a_tie():
    likelihoods = np.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0], [-1.0001, -1.0003], [-1.0, -1.001]])
    assert preferences(likelihoods).tolist() == [1, -1, 0, 0, 1]


# Ten pairs: 6 of the 8 that are no tie prefer the more stereotyping sentence.
CHOSEN = np.array([1, 1, 1, 1, 1, 1, -1, -1, 0, 0])
REFERENCE = np.array([1, 1, 1, 1, -1, -1, -1, -1, 1, -1])
PAIRS = [
    pair("a", "b", "antistereo" if number in (0, 6, 7) else "stereo", BIAS_TYPES[number % 3]) for number in range(10)
]


def scores(chosen=CHOSEN, reference=None, pairs=PAIRS):
    return crows_pairs_scores(pairs, chosen, reference, resamples=2000, seed=5)


def test_the_share_excludes_ties_and_counts_them():
    by_subset = scores()
    assert (by_subset["overall"]["share"], by_subset["overall"]["pairs"], by_subset["overall"]["ties"]) == (
        6 / 8,
        10,
        2,
    )
    assert by_subset["antistereo"]["share"] == pytest.approx(1 / 3)
    assert by_subset["stereo"]["share"] == 5 / 5
    assert by_subset[BIAS_TYPES[0]]["share"] == pytest.approx(2 / 3)  # pairs 0 and 3, not 6; 9 is a tie
    assert by_subset[BIAS_TYPES[0]]["ties"] == 1
    assert by_subset["age"] == {"pairs": 0, "ties": 0, "share": None, "interval": None}
    neutral = scores(np.array([1, -1] * 5))["overall"]
    assert neutral["interval"][0] < neutral["share"] == 0.5 < neutral["interval"][1]


@pytest.mark.parametrize(
    ("chosen", "share", "interval"),
    [
        # Ten of ten: 1 / (1 + 1.96^2 / 10) = 0.7225.
        ([1] * 10, 1.0, (0.7225, 1.0)),
        ([-1] * 10, 0.0, (0.0, 0.2775)),
    ],
)
def test_a_share_of_all_or_none_has_the_interval_of_wilson(chosen, share, interval):
    overall = scores(np.array(chosen))["overall"]
    assert (overall["share"], overall["interval"]) == (share, pytest.approx(interval, abs=1e-4))


def test_the_difference_to_the_reference_has_a_paired_interval():
    overall, equal = scores(reference=REFERENCE)["overall"], scores(reference=CHOSEN)["overall"]
    assert overall["delta"] == pytest.approx(6 / 8 - 5 / 10)
    assert overall["delta_interval"][0] < overall["delta"] < overall["delta_interval"][1]
    assert overall["same_choice"] == 6 / 10
    assert (equal["delta"], equal["delta_interval"], equal["same_choice"]) == (0.0, (0.0, 0.0), 1.0)


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "pairs.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        bad = BadRows(str(file))
        return read_crows_pairs(bad.file, bad), bad

    return read


def test_the_official_layout_is_read_by_column_names(read):
    pairs, bad = read(HEADER + ROW.format(0) + ROW.format(1).replace(",stereo,", ",antistereo,"))
    assert [each.direction for each in pairs] == ["stereo", "antistereo"]
    assert pairs[0] == pair("Black men, they say, are poor.", "White men are poor.")
    assert not bad.counts
    pairs, _ = read("bias_type,id,sent_less,sent_more,stereo_antistereo\nage,1,less,more,stereo\n")
    assert pairs == [pair("more", "less", bias_type="age")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER.replace("sent_less", "sent_fewer") + ROW.format(0), "line 1: no column sent_less"),
        ("", "line 1: no column sent_more, sent_less, stereo_antistereo, bias_type"),
        (HEADER + '0,"never ends,b,stereo,age,[],a0,[]\n' + ROW.format(1), "not CSV"),
        (HEADER.encode() + "0,caf\u00e9,b,stereo,age,[],a,[]\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_file_in_another_format_is_refused(read, text, message):
    with pytest.raises(InputError, match=rf"^[^\n]*pairs\.csv[^\n]*{message}[^\n]*$"):
        read(text)


def test_a_missing_file_is_refused():
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_crows_pairs("none.csv", BadRows("none.csv"))


def test_invalid_rows_are_counted_by_reason(read):
    rows = ["1,,b,stereo,age,[],a0,[]", "2,a,b,pro,age,[],a0,[]", "3,a,b,stereo,x,[],a0,[]", "4,too,few"]
    pairs, bad = read(HEADER + ROW.format(0) + "\n".join([*rows, "5,b ,b,stereo,age,[],a0,[]\n"]))
    assert len(pairs) == 1
    assert bad.counts == {
        "an empty sentence": 1,
        "stereo_antistereo is neither stereo nor antistereo": 1,
        "bias_type is none of the nine": 1,
        "too few or too many cells": 1,
        "the same sentence twice": 1,
    }
    with pytest.raises(DataQualityError, match="5 of 6 rows") as error:
        bad.check(len(pairs), 0.5)
    assert error.value.details[0] == f"{bad.file}, line 3: an empty sentence"
    bad.check(len(pairs), 0.9)
    pairs, bad = read(HEADER)
    with pytest.raises(DataQualityError):
        bad.check(len(pairs), 1.0)


def test_a_pair_that_a_model_cannot_score_has_a_reason():
    assert pair_problem(PAIR, TOKENIZER) is None
    assert pair_problem(pair("black men", "white women"), TOKENIZER) == "no token in common"
    assert pair_problem(pair("men " * 10, "men"), TOKENIZER) is None
    assert pair_problem(pair("men", "men " * 11), TOKENIZER) == "longer than the maximum length"
