import time

import pytest

from distilray.corpus.sources.book_layout import remove_insertions

ABOVE = "The lamp went out before the boat had reached the pier, and nobody on\nboard said a word"
BELOW = "about it. The rope lay where the boy had dropped it."
PAGES = [
    *[
        "12",
        "[12]",
        "{12}",
        "(12)",
        "- 12 -",
        "-- 12 --",
        "— 12 —",
        "* 12 *",
        "|12|",
        "[Pg 12]",
        "[Page 12]",
        "{Pg 12}",
        "[Page: 12]",
        "[Pg 12-13]",
        "[pág. 12]",
        "Page 12 of 300",
        "[Fußnote 1: Ein Wort.]",
    ],
    *[
        "p. 12",
        "Page 12",
        "[S. 12]",
        "xii",
        "[xii]",
        "- xii -",
        "[Illustration: The pier.]",
        "[Pg 12]\n\n[Illustration]",
    ],
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "form", ["{}\n\n{}\n\n{}", "{}\n{}\n{}", "{}\n{}\n\n{}", "{}\n\n{}\n{}", "{}\n\n\n              {}  \n\n\n{}"]
)
def test_a_sentence_goes_on_behind_a_page_number(form: str, page: str) -> None:
    assert remove_insertions(form.format(ABOVE, page, BELOW)) == f"{ABOVE}\n{BELOW}"


@pytest.mark.parametrize("below", ["Anna about the rope.", "“about it,” she said."])
def test_a_sentence_goes_on_with_a_name_or_a_quote(below: str) -> None:
    assert remove_insertions(f"{ABOVE}\n\n[12]\n\n{below}") == f"{ABOVE}\n{below}"


@pytest.mark.parametrize(
    "text",
    [
        f"{ABOVE} about it.\n\n12\n\nThe rope lay there.",
        "The Pier at Night\n\n12\n\nThe rope lay there.",
        "THE PIER\n\n12\n\nof stone",
        f"{ABOVE}\n\nXII\n\n{BELOW}",
        f"{ABOVE}\n\n1901\n\n{BELOW}",
        f"{ABOVE} in\n1901\nand later.",
        "A rose is\nA rose\n\n12\n\nAnd so on",
        "CHAPTER\n12\nThe rope lay there.",
    ],
)
def test_a_number_that_divides_no_sentence_stays(text: str) -> None:
    assert remove_insertions(text) == text


@pytest.mark.parametrize("text", ["\n" * 200_000, "1\n" * 50_000, "[illustration \n" * 20_000, "a\n" + "- " * 100_000])
def test_no_text_makes_it_slow(text: str) -> None:
    began = time.process_time()
    remove_insertions(text)
    assert time.process_time() - began < 5
