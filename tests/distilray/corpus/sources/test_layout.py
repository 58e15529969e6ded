import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilray.corpus.sources.book_layout import book_prose, is_wrapped

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


def test_wrapped_lines_are_joined_and_paragraphs_are_not() -> None:
    assert book_prose(WRAPPED) == PROSE


def test_a_file_whose_lines_are_paragraphs_keeps_them() -> None:
    lines = [
        "The lamp went out before the boat had reached the pier, and nobody on board said a word about it. " * 3
    ] * 4
    assert book_prose("\n".join(lines)).split("\n\n") == [line.strip() for line in lines]


def test_short_lines_that_each_end_a_sentence_are_paragraphs() -> None:
    talk = ["“Who is there?”", "“Only the boy.”", "“Let him in.”", "The door was opened."]
    assert book_prose("\n".join(talk)) == "\n\n".join(talk)


def test_paragraphs_that_are_told_by_their_indent_only_are_split() -> None:
    indented = WRAPPED.replace("\n\n", "\n   ")
    assert book_prose(indented) == PROSE


def test_an_indented_block_is_one_paragraph() -> None:
    letter = "\n\n     Dear Anna, the lamp is mended. I paid for it.\n     You owe me nothing now."
    assert book_prose(WRAPPED + letter).endswith(
        "\n\nDear Anna, the lamp is mended. I paid for it. You owe me nothing now."
    )


def test_a_word_is_whole_across_a_dash_at_the_end_of_a_line() -> None:
    assert "the pier--and nobody said" in book_prose("They had come up to the pier--\nand nobody said a word about it.")


@pytest.mark.parametrize(
    "furniture",
    [
        "CHAPTER I",
        "Chapter One",
        "CHAPTER XII.\n\nTHE PIER",
        "CHAPTER XII.\nTHE PIER AT NIGHT",
        "Chapter 3: In Which Nothing Happens",
        "Chapter the First",
        "BOOK TWO",
        "Chapter Twenty-three",
        "PART I.—The Lamp",
        "IV",
        "IV.",
        "- 12 -",
        "[Pg 12]",
        "* * * * *",
        "       *       *       *",
        "_____",
        "PREFACE",
        "Prologue",
        "THE END",
        "THE END.",
        "THE LAMP AND THE PIER",
        "by A. Writer",
        "_Copyright, 1901, by A. Writer_",
        "[Illustration]",
        "[Illustration: The pier at night. See\npage [4].]",
        "CONTENTS\n\nI. The Lamp\nII. The Pier\nIII. The Road",
        "CONTENTS\n\n  CHAPTER I. The Lamp           1\n  CHAPTER II. The Pier         17",
        "The Lamp ........ 1\nThe Pier ........ 17",
    ],
)
def test_what_is_no_running_text_goes(furniture: str) -> None:
    first, second = WRAPPED.split("\n\n")
    assert book_prose(f"{first}\n\n{furniture}\n\n{second}") == PROSE


@pytest.mark.parametrize(
    "kept",
    [
        "Part of the rope was gone.",
        "Chapter 3 of the log says so.",
        "Letter one was never sent.",
        "“NO!”",
        "STOP THE BOAT!",
        "In the end.",
        "Copyright law was new to him.",
        "By the time he came it was dark.",
        "I did.",
        "“I—”",
        "Civil.",
        "He wrote fill_in_form on the card.",
        "In 1901 there were forty.",
    ],
)
def test_what_looks_like_furniture_and_is_prose_stays(kept: str) -> None:
    assert book_prose(f"{WRAPPED}\n\n{kept}") == f"{PROSE}\n\n{kept}"


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("It was _very_ dark, and _the whole\nboat_ lay still.", "It was very dark, and the whole boat lay still."),
        ("He read _Hamlet_'s last act (_again_).", "He read Hamlet's last act (again)."),
        ("They went[3] down the {12} road.[Footnote 3: At night.]", "They went down the road."),
    ],
)
def test_marks_of_the_editor_go_and_the_words_stay(marked: str, plain: str) -> None:
    assert book_prose(f"{WRAPPED}\n\n{marked}") == f"{PROSE}\n\n{plain}"


@pytest.mark.parametrize(("text", "wrapped"), [(WRAPPED, True), (PROSE, False), ("", True)])
def test_wrapping_is_told_by_width_and_by_how_lines_end(text: str, wrapped: bool) -> None:
    assert is_wrapped(text) is wrapped


@given(st.text(alphabet="aB1 \n\t_[]*.—"))
def test_paragraphs_are_single_lines_without_spaces_around(text: str) -> None:
    paragraphs = book_prose(text).split("\n\n")
    assert paragraphs == [""] or all(part and part == part.strip() and "\n" not in part for part in paragraphs)
