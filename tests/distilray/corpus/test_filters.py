# ruff: noqa: RUF001 - punctuation of other scripts is the subject here

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from distilray.config.corpus import FilterConfig
from distilray.corpus.filters import (
    TEXT_REASONS,
    check_language,
    count_basic_tokens,
    detect_language,
    histogram_bin,
    text_drop_reason,
)
from distilray.corpus.writing_systems import COMBINING_MARKS
from distilray.errors import InputError

CONFIG = FilterConfig(min_words=5, min_sentences=2, min_letter_fraction=0.5)
ENGLISH = ["The dog is an animal.", "It barks at the man who brings the letters."]
GERMAN = ["Der Hund ist ein Tier.", "Er bellt den Mann an, der jeden Tag die Briefe bringt, und läuft dann weg."]
CASES = [
    (None, ENGLISH, {}),
    (None, GERMAN, {"language": "de"}),
    (None, ["One two three four five.", "A list"], {}),
    ("too_few_sentences", ["Only one sentence that is long enough."], {}),
    ("too_short", ["Short one.", "Two."], {}),
    ("list_like", ["a list of dogs", "a list of cats", "The end is a sentence."], {}),
    ("too_few_letters", ["1 2 3 4 5 6 7.", "8 9 10 11 a."], {}),
    ("repeated_lines", ["The dog barks loudly."] * 3 + ["The cat is silent."], {}),
    ("wrong_language", GERMAN, {"language": "en"}),
    ("wrong_language", ["The cat sat here now.", "It is."], {"language": "en", "min_language_probability": 1.0}),
]
OFF = FilterConfig(
    min_words=0, min_sentences=0, min_letter_fraction=0, max_list_fraction=1, max_repeated_fraction=1, language=None
)


def off(**changes: object) -> FilterConfig:
    return OFF.model_copy(update=changes)


@pytest.mark.parametrize(("reason", "sentences", "changes"), CASES)
def test_a_text_is_kept_or_dropped_for_its_reason(
    reason: str | None, sentences: list[str], changes: dict[str, object]
) -> None:
    assert text_drop_reason(sentences, CONFIG.model_copy(update=changes)) == reason


def test_every_reason_has_a_case_here() -> None:
    assert {name for name, _ in TEXT_REASONS} == {reason for reason, _, _ in CASES if reason}


@given(st.lists(st.text(), max_size=4))
def test_bounds_that_are_off_keep_every_text(sentences: list[str]) -> None:
    assert text_drop_reason(sentences, OFF) is None


@pytest.mark.parametrize(
    "sentence",
    [
        "He left.", "Left?", "Left!", "And so…", 'He said "yes."', "(He left.)", "“No!”", "他走了。", "「行け！」",
        "ได้ไปแล้ว", "वह गया।", "هل ذهب؟", "وہ گیا۔", "Գնաց։", "ሄደ።", "គាត់ទៅ។", "Έφυγε;", "„Nein.“", "Он ушёл.»",
    ],
)  # fmt: skip
def test_a_sentence_with_an_end_is_no_item_of_a_list(sentence: str) -> None:
    assert text_drop_reason([sentence], off(max_list_fraction=0.5)) is None


@pytest.mark.parametrize("item", ["He left", "Dogs:", "one, two,", "(1999)", "a; b;", "港口", "बंदरगाह", "ميناء"])
def test_a_line_without_an_end_is_an_item_of_a_list(item: str) -> None:
    assert text_drop_reason([item], off(max_list_fraction=0.5)) == "list_like"


@pytest.mark.parametrize(("bound", "reason"), [(0.4, "repeated_lines"), (0.5, None)])
def test_a_line_repeats_another_whatever_its_case(bound: float, reason: str | None) -> None:
    assert text_drop_reason(["The dog barks.", "THE DOG barks."], off(max_repeated_fraction=bound)) == reason


@given(st.lists(st.text(), max_size=4), st.floats(0, 1))
def test_letters_and_marks_are_counted_among_all_characters_but_white_space(sentences: list[str], bound: float) -> None:
    signs = [sign for sentence in sentences for sign in sentence if not sign.isspace()]
    letters = [sign for sign in signs if sign.isalpha() or sign in COMBINING_MARKS]
    fraction = len(letters) / len(signs) if signs else 0.0
    dropped = text_drop_reason(sentences, off(min_letter_fraction=bound))
    assert (dropped == "too_few_letters") == (fraction < bound)


ENGLISH_SIGNS = "".join(map(chr, range(0x20, 0x7F))) + "éüñß—“”…«»¿日本"


@given(st.lists(st.text(alphabet=ENGLISH_SIGNS), max_size=5))
def test_basic_tokens_are_those_of_the_tokenizer_of_bert(sentences: list[str]) -> None:
    normal, split = BertNormalizer(lowercase=False), BertPreTokenizer()
    expected = sum(len(split.pre_tokenize_str(normal.normalize_str(sentence))) for sentence in sentences)
    assert count_basic_tokens(sentences) == expected


@given(st.integers(1, 2**40))
def test_a_bin_contains_its_lower_bound_and_less_than_twice_as_much(words: int) -> None:
    lower = histogram_bin(words)
    assert lower <= words < 2 * lower
    assert lower.bit_count() == 1
    assert histogram_bin(0) == 0


TEXTS_OF_OTHER_SCRIPTS = {
    "zh": ["这个港口建于二十世纪初，位于海边的一个小城市。", "它的城墙是用附近采石场的石头建造的。"],
    "ja": ["この港は二十世紀の初めに海辺の小さな町に建てられた。", "その壁は近くの採石場の石で造られている。"],
    "th": ["ท่าเรือแห่งนี้สร้างขึ้นเมื่อต้นศตวรรษที่ยี่สิบในเมืองเล็กริมทะเล", "กำแพงของท่าเรือสร้างด้วยหินจากเหมืองใกล้เคียง"],
    "hi": ["यह बंदरगाह बीसवीं सदी में समुद्र के किनारे एक छोटे शहर में बनाया गया था।", "इसकी दीवारें पास की खदान के पत्थर से बनी हैं।"],
    "ar": [
        "بني هذا الميناء في بداية القرن العشرين في مدينة صغيرة على شاطئ البحر.",
        "شيدت جدرانه من حجارة محجر قريب من المدينة القديمة.",
    ],
}


@pytest.mark.parametrize("language", TEXTS_OF_OTHER_SCRIPTS)
def test_the_default_bounds_keep_a_text_of_any_script(language: str) -> None:
    config = FilterConfig(language=language)
    assert text_drop_reason(TEXTS_OF_OTHER_SCRIPTS[language], config) is None


TEXTS = {
    "en": "The river rises in the hills above the town and flows to the sea.",
    "de": "Der Fluss entspringt in den Hügeln über der Stadt und fließt ins Meer.",
    "fr": "La rivière prend sa source dans les collines et se jette dans la mer.",
    "ru": "Река берёт начало в холмах над городом и впадает в море.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_of_a_text_is_detected(language: str) -> None:
    detected, probability = detect_language(TEXTS[language])
    assert detected == language
    assert probability > 0.8


def test_a_text_without_letters_is_in_no_language() -> None:
    assert detect_language("1, 2, 3 ... 4!")[1] < 0.05


def test_the_text_is_read_until_the_language_is_certain() -> None:
    assert detect_language("1921 1922 1923 " * 20 + TEXTS["de"] * 5)[0] == "de"
    beginning = TEXTS["en"] * 5
    assert detect_language(beginning + TEXTS["ru"] * 50) == detect_language(beginning[:128])


def test_a_language_that_the_model_lacks_is_refused() -> None:
    check_language("en")
    check_language("nb")  # the model has it under another code
    with pytest.raises(InputError, match=r"'xx' is not a known language; choose one of .*de.*en"):
        check_language("xx")
