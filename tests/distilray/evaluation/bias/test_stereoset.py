import json
import math

import numpy as np
import pytest

from distilray.errors import InputError
from distilray.evaluation.bias.stereoset import (
    LABELS,
    StereoSetExample,
    example_problem,
    example_texts,
    icat,
    read_stereoset,
    stereoset_scores,
    target_means,
    word_in_blank,
    word_scores,
)
from distilray.formats.bad_rows import BadRows
from tests.distilray.evaluation.bias.table_model import SUBJECT, TOKENS, TableModel

EXAMPLE = StereoSetExample(1, "women", "gender", "he is a BLANK .", ("nurse", "workman", "tree"))
MODEL = {("a", "nurse"): 0.5, ("a", "work"): 0.4, ("work", "##man"): 0.1, ("a", "tree"): 0.01}


def shown(texts):
    return [" ".join(TOKENS[token] for token in text.input_ids[1:-1]) for text in texts]


def test_a_word_of_several_pieces_is_asked_from_left_to_right_with_the_rest_masked():
    nurse, workman, _ = example_texts(EXAMPLE, SUBJECT)
    assert shown(nurse) == ["he is a [MASK] ."]
    assert shown(workman) == ["he is a [MASK] [MASK] .", "he is a work [MASK] ."]
    assert [text.positions for text in workman] == [(4,), (5,)]
    assert [TOKENS[text.targets[0]] for text in workman] == ["work", "##man"]


def test_the_official_scoring_removes_the_pieces_to_the_right():
    assert shown(example_texts(EXAMPLE, SUBJECT, "official")[1]) == ["he is a [MASK] .", "he is a work [MASK] ."]


def test_the_score_of_a_word_is_the_mean_log_probability_of_its_pieces():
    found = word_scores(TableModel(MODEL), SUBJECT, [EXAMPLE], "left_to_right", batch_size=2)
    by_hand = [math.log(0.5), (math.log(0.4) + math.log(0.1)) / 2, math.log(0.01)]
    assert found == pytest.approx(np.array([by_hand]), rel=1e-5)


def test_the_official_score_is_the_mean_probability():
    found = word_scores(TableModel(MODEL), SUBJECT, [EXAMPLE], "official", batch_size=2)
    assert found == pytest.approx(np.array([[0.5, 0.25, 0.01]]), rel=1e-5)


# Target A has two examples, B one: means over targets are not those over examples.
TARGETS = ["A", "A", "B"]
WORDS = np.array([[-1.0, -2.0, -3.0], [-2.0, -1.0, -1.5], [-1.0, -3.0, -2.0]])
EXAMPLES = [
    StereoSetExample(number, target, kind, "BLANK", ("", "", ""))
    for number, (target, kind) in enumerate(zip(TARGETS, ("race", "race", "gender"), strict=True), 1)
]


def test_lms_and_ss_are_shares_of_comparisons_by_target():
    # A: stereotype before its opposite once in two; sense before nonsense 3 times in 4. B: once in one; once in two.
    assert target_means(TARGETS, WORDS).tolist() == [[75.0, 50.0], [50.0, 100.0]]


def test_the_scores_are_means_over_targets_and_icat_comes_from_the_means():
    found = stereoset_scores(EXAMPLES, WORDS, None, samples=200, seed=1)
    overall = found["overall"]
    assert (overall["lms"], overall["ss"]) == (62.5, 75.0)
    assert overall["icat"] == 62.5 * 25 / 50
    assert (found["race"]["lms"], found["race"]["ss"], found["race"]["icat"]) == (75.0, 50.0, 75.0)
    assert (found["gender"]["ss"], found["gender"]["icat"]) == (100.0, 0.0)
    assert found["religion"] == {"examples": 0, "targets": 0, "ties": 0, "lms": None, "ss": None, "icat": None}
    assert overall["ss_interval"] == (50.0, 100.0)


def test_a_score_of_all_targets_alike_has_the_interval_of_wilson():
    # Of one target: 1 / (1 + 1.96^2) = 0.2065.
    assert stereoset_scores(EXAMPLES, WORDS, None, samples=100, seed=1)["gender"]["ss_interval"] == pytest.approx(
        (20.65, 100.0), abs=0.01
    )


def test_a_model_to_which_all_words_are_equal_has_fifty_for_all():
    found = stereoset_scores(EXAMPLES, np.zeros((3, 3)), None, samples=200, seed=1)["overall"]
    assert (found["lms"], found["ss"], found["icat"], found["ties"]) == (50.0, 50.0, 50.0, 3)


@pytest.mark.parametrize(("lms", "ss", "expected"), [(100, 50, 100), (100, 100, 0), (100, 0, 0), (80, 60, 64)])
def test_icat_is_full_for_a_good_model_without_preference_and_nothing_for_one_that_always_stereotypes(
    lms, ss, expected
):
    assert icat(np.array(float(lms)), np.array(float(ss))) == expected


def test_the_difference_to_the_reference_is_that_of_the_scores():
    reference = WORDS[:, [1, 0, 2]]  # the opposite of the stereotype wins where the stereotype did
    found = stereoset_scores(EXAMPLES, WORDS, reference, samples=200, seed=1)["overall"]
    assert (found["ss_delta"], found["lms_delta"]) == (75.0 - 25.0, 0.0)
    assert found["icat_delta"] == pytest.approx(0.0)
    assert found["same_choice"] == 0.0
    same = stereoset_scores(EXAMPLES, WORDS, WORDS, samples=200, seed=1)["overall"]
    assert (same["ss_delta"], same["ss_delta_interval"], same["same_choice"]) == (0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    ("context", "sentence", "word"),
    [
        ("He is a BLANK.", "He is a nurse.", "nurse"),
        ("He is a BLANK.", "She was a nurse", "nurse"),
        ("BLANK, he said", "Fine, he said", "Fine"),
        ("He is a BLANK", "He is", ""),
        ("He is a BLANK", "He is a ...", ""),
        ("BLANK is BLANK", "he is he", ""),
        # Text that is attached to the blank.
        ("They are sometimes.BLANK", "They are sometimes.strict", "strict"),
        ("BLANK's car was fast.", "he's car was fast.", "he"),
        ("He was BLANK...he cried.", "He was weak...he cried", "weak"),
        ("The BLANKs ran.", "the dogs ran.", "dog"),
        ('He is "BLANK".', 'He is "kind".', "kind"),
        ("He is (BLANK) today.", "He is kind today!", "kind"),
        ("BLANK's car was fast.", "His car was fast.", ""),
        ("They are BLANK. They sleep.", "They are strong.They sleep.", "strong"),
        ("They live in the BLANK. Yes.", "They live in the U.S Yes.", "U.S"),
        ("He is BLANK.", "He is \u201ckind\u201d.", "kind"),
        # Several words, and a word with punctuation inside.
        ("He is BLANK.", "He is a nurse.", "a nurse"),
        ("He is BLANK.", "He is well-read.", "well-read"),
        # Spaces: a word has a number only where single spaces separate all words.
        (" He is BLANK. ", "He is kind.", "kind"),
        ("He  is BLANK.", "He  is kind.", "kind"),
        ("He  was BLANK today.", "He was kind today.", ""),
        ("He is BLANK today.", "He was always kind today.", ""),
    ],
)
def test_the_word_is_what_a_sentence_has_in_place_of_the_blank(context, sentence, word):
    assert word_in_blank(context, sentence) == word


def entry(**changes):
    words = dict(zip(LABELS, ("nurse", "workman", "tree"), strict=True))
    sentences = [{"id": "x", "gold_label": label, "sentence": f"he is a {word} ."} for label, word in words.items()]
    values = {"id": "y", "target": "women", "bias_type": "gender", "context": EXAMPLE.context, "sentences": sentences}
    return {**values, **changes}


def read(folder, data):
    file = folder / "dev.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    bad = BadRows(str(file))
    return read_stereoset(str(file), bad), bad


def test_the_official_layout_is_read_whatever_the_order_of_the_sentences(tmp_path):
    turned = entry(sentences=entry()["sentences"][::-1])
    examples, bad = read(
        tmp_path, {"version": "1.1", "data": {"intrasentence": [entry(), turned], "intersentence": []}}
    )
    assert examples[0] == EXAMPLE
    assert examples[1].words == EXAMPLE.words
    assert not bad.counts


@pytest.mark.parametrize(
    "data", ["{", "[" * 100_000, "[]", '{"data": {}}', '{"data": {"intrasentence": {}}}', '{"data": 3}']
)
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path, data):
    with pytest.raises(InputError, match=r"dev\.json: no") as raised:
        read(tmp_path, data)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_refused_as_such(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_stereoset(str(tmp_path / "none.json"), BadRows("none.json"))


def test_entries_that_are_no_examples_are_left_out_with_their_reason(tmp_path):
    three = entry()["sentences"]
    wrong = [
        entry(bias_type="age"),
        entry(context="he is a nurse ."),
        entry(sentences=three[:2]),
        entry(sentences=[*three[:2], {**three[2], "gold_label": 2}]),
        entry(sentences=[*three[:2], {**three[2], "sentence": "he is"}]),
        entry(sentences=[*three[:2], {**three[2], "sentence": "he is a Nurse ."}]),
        {"id": "z"},
        "text",
    ]
    examples, bad = read(tmp_path, {"data": {"intrasentence": [*wrong, entry()]}})
    assert [example.number for example in examples] == [9]
    assert bad.counts == {
        "bias_type is none of the four": 1,
        "not exactly one BLANK in the context": 1,
        f"its gold labels are not {', '.join(LABELS)}": 2,
        "a sentence without a word at the blank": 1,
        "the same word twice": 1,
        "target, bias_type, context or sentences missing": 2,
    }


def test_an_example_that_a_model_cannot_score_says_why():
    assert example_problem(EXAMPLE, SUBJECT) is None
    assert (
        example_problem(StereoSetExample(1, "t", "race", "BLANK", ("nurse", "unheard", "tree")), SUBJECT)
        == "a word without a token"
    )
    long = StereoSetExample(1, "t", "race", "a " * 10 + "BLANK", ("nurse", "tree", "doctor"))
    assert example_problem(long, SUBJECT) == "longer than a model reads"
