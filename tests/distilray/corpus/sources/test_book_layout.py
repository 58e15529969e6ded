import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.sources.book_layout import book_prose, is_wrapped, remove_insertions

WRAPPED = """The lamp went out before the boat had reached the pier, and nobody on
board said a word about it. The rope lay where the boy had dropped it in
the afternoon.

Anna counted the steps to the road. There were forty, as there had
always been."""

PROSE = (
    "The lamp went out before the boat had reached the pier, and nobody on board said a word about it. "
    "The rope lay where the boy had dropped it in the afternoon.\n\n"
    "Anna counted the steps to the road. There were forty, as there had always been."
)


PARAGRAPH = " ".join(["The lamp went out before the boat had reached the pier, and nobody on board said a word."] * 3)
TALK = ["“Who is there?”", "“Only the boy.”", "“Let him in.”", "The door was opened."]
LETTER = "     Dear Anna, the lamp is mended. I paid for it.\n     You owe me nothing now."


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        (WRAPPED, PROSE),
        ("\n".join([PARAGRAPH] * 4), "\n\n".join([PARAGRAPH] * 4)),
        ("\n".join(TALK), "\n\n".join(TALK)),
        (WRAPPED.replace("\n\n", "\n   "), PROSE),
        (f"{WRAPPED}\n\n{LETTER}", f"{PROSE}\n\n{' '.join(LETTER.split())}"),
        (
            f"{WRAPPED}\n\nThey came to the pier--\nand nobody spoke.",
            f"{PROSE}\n\nThey came to the pier--and nobody spoke.",
        ),
    ],
    ids=[
        "wrapped",
        "a paragraph per line",
        "short lines",
        "indented",
        "an indented block",
        "a dash at the end of a line",
    ],
)
def test_wrapped_lines_are_joined_and_paragraphs_are_not(text: str, prose: str) -> None:
    assert book_prose(text) == prose


@pytest.mark.parametrize(
    "furniture",
    [
        "CHAPTER I", "Chapter One", "CHAPTER XII.\n\nTHE PIER", "CHAPTER XII.\nTHE PIER AT NIGHT",
        "Chapter 3: In Which Nothing Happens", "Chapter the First", "BOOK TWO", "Chapter Twenty-three",
        "PART I.—The Lamp", "IV", "IV.", "- 12 -", "[Pg 12]", "* * * * *", "       *       *       *", "_____",
        "PREFACE", "Prologue", "THE END", "THE END.", "THE LAMP AND THE PIER", "by A. Writer",
        "_Copyright, 1901, by A. Writer_", "[Illustration]", "[Illustration: The pier at night. See\npage [4].]",
        "CONTENTS\n\nI. The Lamp\nII. The Pier\nIII. The Road",
        "CONTENTS\n\n  CHAPTER I. The Lamp           1\n  CHAPTER II. The Pier         17",
        "The Lamp ........ 1\nThe Pier ........ 17",
    ],
)  # fmt: skip
def test_text_that_is_not_prose_is_removed(furniture: str) -> None:
    first, second = WRAPPED.split("\n\n")
    assert book_prose(f"{first}\n\n{furniture}\n\n{second}") == PROSE


@pytest.mark.parametrize(
    "sentence",
    [
        "Part of the rope was gone.", "Chapter 3 of the log says so.", "Letter one was never sent.", "“NO!”",
        "STOP THE BOAT!", "In the end.", "Copyright law was new to him.", "By the time he came it was dark.", "I did.",
        "“I—”", "Civil.", "He wrote fill_in_form on the card.", "In 1901 there were forty.",
    ],
)  # fmt: skip
def test_prose_that_looks_like_a_heading_is_not_removed(sentence: str) -> None:
    assert book_prose(f"{WRAPPED}\n\n{sentence}") == f"{PROSE}\n\n{sentence}"


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("It was _very_ dark, and _the whole\nboat_ lay still.", "It was very dark, and the whole boat lay still."),
        ("He read _Hamlet_'s last act (_again_).", "He read Hamlet's last act (again)."),
        ("They went[3] down the {12} road.[Footnote 3: At night.]", "They went down the road."),
    ],
)
def test_marks_of_the_editor_are_removed_without_the_words(marked: str, plain: str) -> None:
    assert book_prose(f"{WRAPPED}\n\n{marked}") == f"{PROSE}\n\n{plain}"


@pytest.mark.parametrize(("text", "wrapped"), [(WRAPPED, True), (PROSE, False), ("", True)])
def test_wrapping_is_recognized_by_width_and_line_ends(text: str, wrapped: bool) -> None:
    assert is_wrapped(text) is wrapped


@given(st.text(alphabet="aB1 \n\t_[]*.—"))
def test_paragraphs_are_single_lines_without_spaces_around(text: str) -> None:
    paragraphs = book_prose(text).split("\n\n")
    assert paragraphs == [""] or all(part and part == part.strip() and "\n" not in part for part in paragraphs)


ABOVE = "The lamp went out before the boat had reached the pier, and nobody on\nboard said a word"
BELOW = "about it. The rope lay where the boy had dropped it."
INSERTIONS = [
    "12", "[12]", "{12}", "(12)", "- 12 -", "-- 12 --", "— 12 —", "* 12 *", "|12|", "[Pg 12]", "[Page 12]", "{Pg 12}",
    "[Page: 12]", "[Pg 12-13]", "[pág. 12]", "Page 12 of 300", "[Fußnote 1: Ein Wort.]", "p. 12", "Page 12", "[S. 12]",
    "xii", "[xii]", "- xii -", "[Illustration: The pier.]", "[Pg 12]\n\n[Illustration]",
]  # fmt: skip


@pytest.mark.parametrize("insertion", INSERTIONS)
def test_a_sentence_continues_after_a_page_number(insertion: str) -> None:
    forms = ["{}\n\n{}\n\n{}", "{}\n{}\n{}", "{}\n{}\n\n{}", "{}\n\n{}\n{}", "{}\n\n\n              {}  \n\n\n{}"]
    for form in forms:
        assert remove_insertions(form.format(ABOVE, insertion, BELOW)) == f"{ABOVE}\n{BELOW}", form


@pytest.mark.parametrize("below", ["Anna about the rope.", "“about it,” she said."])
def test_a_sentence_continues_with_a_name_or_a_quote(below: str) -> None:
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
def test_a_number_that_divides_no_sentence_is_not_removed(text: str) -> None:
    assert remove_insertions(text) == text


@pytest.mark.parametrize("text", ["\n" * 200_000, "1\n" * 50_000, "[illustration \n" * 20_000, "a\n" + "- " * 100_000])
def test_the_time_to_remove_insertions_grows_with_the_size_only(text: str) -> None:
    began = time.process_time()
    remove_insertions(text)
    assert time.process_time() - began < 5
