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
from tests.distilray.evaluation.bias.table_model import TOKENIZER, TOKENS, TableModel

EXAMPLE = StereoSetExample(1, "women", "gender", "he is a BLANK .", ("nurse", "workman", "tree"))
MODEL = {("a", "nurse"): 0.5, ("a", "work"): 0.4, ("work", "##man"): 0.1, ("a", "tree"): 0.01}


@pytest.mark.parametrize(
    ("scoring", "texts", "scores"),
    [
        (
            "left_to_right",
            ["he is a [MASK] [MASK] .", "he is a work [MASK] ."],
            [math.log(0.5), (math.log(0.4) + math.log(0.1)) / 2, math.log(0.01)],
        ),
        ("official", ["he is a [MASK] .", "he is a work [MASK] ."], [0.5, 0.25, 0.01]),
    ],
)
def test_a_word_of_several_pieces_is_scored_from_left_to_right(scoring, texts, scores):
    nurse, workman, _ = example_texts(EXAMPLE, TOKENIZER, scoring)
    shown = [" ".join(TOKENS[token] for token in text.input_ids[1:-1]) for text in [*nurse, *workman]]
    assert shown == ["he is a [MASK] .", *texts]
    assert [text.positions for text in workman] == [(4,), (5,)]
    assert [TOKENS[text.targets[0]] for text in workman] == ["work", "##man"]
    values = word_scores(TableModel(MODEL), TOKENIZER, [EXAMPLE], scoring, batch_size=2)
    assert values == pytest.approx(np.array([scores]), rel=1e-5)


# Target A has two examples, B one: means over targets are not those over examples.
TARGETS = ["A", "A", "B"]
WORDS = np.array([[-1.0, -2.0, -3.0], [-2.0, -1.0, -1.5], [-1.0, -3.0, -2.0]])
EXAMPLES = [
    StereoSetExample(number, target, bias_type, "BLANK", ("", "", ""))
    for number, (target, bias_type) in enumerate(zip(TARGETS, ("race", "race", "gender"), strict=True), 1)
]


def scores(words=WORDS, reference=None):
    return stereoset_scores(EXAMPLES, words, reference, resamples=200, seed=1)


def test_scores_are_means_over_targets_and_icat_is_computed_from_the_means():
    # A: the stereotype wins once in two; a meaningful word wins 3 times in 4. B: once in one; once in two.
    assert target_means(TARGETS, WORDS).tolist() == [[75.0, 50.0], [50.0, 100.0]]
    subsets = scores()
    assert [subsets["overall"][name] for name in ("lms", "ss", "icat")] == [62.5, 75.0, 62.5 * 25 / 50]
    assert [subsets["race"][name] for name in ("lms", "ss", "icat")] == [75.0, 50.0, 75.0]
    assert (subsets["gender"]["ss"], subsets["gender"]["icat"]) == (100.0, 0.0)
    assert subsets["religion"] == {"examples": 0, "targets": 0, "ties": 0, "lms": None, "ss": None, "icat": None}
    assert (subsets["overall"]["examples"], subsets["overall"]["targets"]) == (3, 2)
    assert subsets["overall"]["ss_interval"] == (50.0, 100.0)
    # Wilson's interval of one target: 1 / (1 + 1.96^2) = 0.2065.
    assert subsets["gender"]["ss_interval"] == pytest.approx((20.65, 100.0), abs=0.01)
    equal = scores(np.zeros((3, 3)))["overall"]
    assert [equal[name] for name in ("lms", "ss", "icat", "ties")] == [50.0, 50.0, 50.0, 3]


@pytest.mark.parametrize(("lms", "ss", "expected"), [(100, 50, 100), (100, 100, 0), (100, 0, 0), (80, 60, 64)])
def test_icat_is_highest_for_a_good_model_without_preference(lms, ss, expected):
    assert icat(np.array(float(lms)), np.array(float(ss))) == expected


def test_the_difference_to_the_reference_is_that_of_the_scores():
    overall = scores(reference=WORDS[:, [1, 0, 2]])["overall"]  # the opposite of the stereotype wins instead
    assert (overall["ss_delta"], overall["lms_delta"], overall["same_choice"]) == (75.0 - 25.0, 0.0, 0.0)
    assert overall["icat_delta"] == pytest.approx(0.0)
    equal = scores(reference=WORDS)["overall"]
    assert (equal["ss_delta"], equal["ss_delta_interval"], equal["same_choice"]) == (0.0, (0.0, 0.0), 1.0)


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
def test_the_word_of_a_sentence_is_found_at_the_blank(context, sentence, word):
    assert word_in_blank(context, sentence) == word


SENTENCES = [
    {"id": "x", "gold_label": label, "sentence": f"he is a {word} ."}
    for label, word in zip(LABELS, EXAMPLE.words, strict=True)
]


def entry(**changes):
    return {"target": "women", "bias_type": "gender", "context": EXAMPLE.context, "sentences": SENTENCES, **changes}


def last(**changes):
    return {"sentences": [*SENTENCES[:2], {**SENTENCES[2], **changes}]}


@pytest.fixture
def read(tmp_path):
    def read(data):
        file = tmp_path / "dev.json"
        file.write_text(data if isinstance(data, str) else json.dumps({"data": {"intrasentence": data}}))
        bad = BadRows(str(file))
        return read_stereoset(str(file), bad), bad

    return read


def test_the_official_layout_is_read_with_sentences_in_any_order(read):
    examples, bad = read([entry(), entry(sentences=SENTENCES[::-1])])
    assert examples[0] == EXAMPLE
    assert examples[1].words == EXAMPLE.words
    assert not bad.counts


@pytest.mark.parametrize(
    "data", ["{", "[" * 100_000, "[]", '{"data": {}}', '{"data": {"intrasentence": {}}}', '{"data": 3}'], ids=range(6)
)
def test_a_file_in_another_format_is_refused(read, data):
    with pytest.raises(InputError, match=r"^[^\n]*dev\.json: no[^\n]*$"):
        read(data)


def test_a_missing_file_is_refused():
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_stereoset("none.json", BadRows("none.json"))


@pytest.mark.parametrize(
    ("bad_entry", "reason"),
    [
        (entry(bias_type="age"), "bias_type is none of the four"),
        (entry(context="he is a nurse ."), "not exactly one BLANK in the context"),
        (entry(sentences=SENTENCES[:2]), f"gold labels other than {', '.join(LABELS)}"),
        (entry(sentences=[*SENTENCES, SENTENCES[0]]), f"gold labels other than {', '.join(LABELS)}"),
        (entry(**last(gold_label=2)), f"gold labels other than {', '.join(LABELS)}"),
        (entry(**last(sentence="he is")), "a sentence without a word at the blank"),
        (entry(**last(sentence="he is a Nurse .")), "the same word twice"),
        ({"id": "z"}, "target, bias_type, context or sentences missing"),
        ("text", "target, bias_type, context or sentences missing"),
    ],
)
def test_an_invalid_entry_is_counted_by_reason(read, bad_entry, reason):
    examples, bad = read([bad_entry, entry()])
    assert [example.number for example in examples] == [2]
    assert bad.counts == {reason: 1}


@pytest.mark.parametrize(
    ("context", "words", "problem"),
    [
        (EXAMPLE.context, EXAMPLE.words, None),
        ("BLANK", ("nurse", "unheard", "tree"), "a word without a token"),
        ("a " * 9 + "BLANK", ("nurse", "tree", "doctor"), None),
        ("a " * 9 + "BLANK", ("nurse", "tree", "workman"), "longer than the maximum length"),
    ],
)
def test_an_example_that_a_model_cannot_score_has_a_reason(context, words, problem):
    assert example_problem(StereoSetExample(1, "t", "race", context, words), TOKENIZER) == problem
