import pytest

from distilray.corpus.filters import check_language, detect_language
from distilray.errors import InputError

TEXTS = {
    "en": "The river rises in the hills above the town and flows to the sea.",
    "de": "Der Fluss entspringt in den Hügeln über der Stadt und fließt ins Meer.",
    "fr": "La rivière prend sa source dans les collines et se jette dans la mer.",
    "ru": "Река берёт начало в холмах над городом и впадает в море.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_text_is_of_its_language(language: str) -> None:
    found, probability = detect_language(TEXTS[language])
    assert found == language
    assert probability > 0.8


def test_a_text_without_letters_is_of_no_language() -> None:
    assert detect_language("1, 2, 3 ... 4!")[1] < 0.05


def test_a_doubtful_beginning_is_judged_by_what_follows() -> None:
    beginning = "1921 1922 1923 " * 20
    assert detect_language(beginning + TEXTS["de"] * 5)[0] == "de"


def test_a_sure_beginning_decides_alone() -> None:
    beginning = TEXTS["en"] * 5
    assert detect_language(beginning + TEXTS["ru"] * 50) == detect_language(beginning[:128])


def test_a_language_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(InputError, match=r"'xx' is not one of the languages known: .*de.*en"):
        check_language("xx")


def test_a_language_of_the_model_is_accepted() -> None:
    check_language("en")
