import pytest

from distilray.corpus.sources.gutenberg import Book, read_book

BODY = """The lamp went out before the boat had reached the pier, and nobody on
board said a word about it.

Anna counted the steps to the road. There were forty, as there had
always been."""

HEADER = """The Project Gutenberg EBook of The Lamp and the Pier, by A. Writer

This eBook is for the use of anyone anywhere at no cost.

Title: The Lamp and the Pier
       A Tale of the Northern Coast

Author: A. Writer

Language: English

"""
LICENSE = "\nUpdated editions will replace the previous one.\n" + "Terms of the license follow here.\n" * 300

# How the start and the end were marked over the years.
MARKS = {
    "today": (
        "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP AND THE PIER ***\n",
        "*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP AND THE PIER ***\n",
    ),
    "this": (
        "***START OF THIS PROJECT GUTENBERG EBOOK THE LAMP***\n",
        "***END OF THIS PROJECT GUTENBERG EBOOK THE LAMP***\n",
    ),
    "a title over two lines": (
        "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP AND THE PIER, A TALE OF\nTHE NORTHERN COAST ***\n",
        "*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP AND THE PIER, A TALE OF\nTHE NORTHERN COAST ***\n",
    ),
    "stars that never close": (
        "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP\n",
        "*** END OF THE PROJECT GUTENBERG EBOOK THE LAMP\n",
    ),
    "words above the end mark": (
        "*** START OF THIS PROJECT GUTENBERG EBOOK THE LAMP ***\n",
        "End of the Project Gutenberg EBook of The Lamp and the Pier, by A. Writer\n\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK THE LAMP ***\n",
    ),
    "small print": (
        "***START**THE SMALL PRINT!FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is this here?\n\n"
        "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n",
        "End of Project Gutenberg's Etext of The Lamp and the Pier\n",
    ),
}


@pytest.mark.parametrize("era", MARKS)
def test_the_body_is_the_text_between_the_marks(era: str) -> None:
    start, end = MARKS[era]
    assert read_book(f"{HEADER}{start}\n\n{BODY}\n\n\n{end}{LICENSE}").body == BODY


def test_the_title_continues_in_indented_lines() -> None:
    start, end = MARKS["today"]
    assert read_book(HEADER + start + BODY + "\n" + end).title == "The Lamp and the Pier A Tale of the Northern Coast"


def test_a_file_of_another_publisher_is_all_body() -> None:
    text = f"Title: not a header\n\n{BODY}\n"
    assert read_book(text) == Book("", text)


def test_a_book_that_mentions_the_marks_is_complete() -> None:
    start, end = MARKS["today"]
    body = f'{BODY}\n\nShe typed "{end.strip()}" and\nslept. The End of the Project Gutenberg was far off.\n\n{BODY}'
    assert read_book(f"{HEADER}{start}\n{body}\n\n{end}{LICENSE}").body == body


def test_a_mark_in_the_middle_of_a_long_book_does_not_end_it() -> None:
    start, end = MARKS["today"]
    body = f"{BODY}\n\n{end}\n" + f"{BODY}\n\n" * 500 + "So it ended."
    assert read_book(f"{HEADER}{start}\n{body}\n\n{end}{LICENSE}").body.endswith("So it ended.")


def test_a_mark_far_from_the_end_is_part_of_the_text() -> None:
    body = f"{BODY}\n\n{MARKS['today'][1]}\n" + f"{BODY}\n\n" * 500
    assert read_book(body).body == body


def test_a_sentence_about_producing_stays() -> None:
    start, end = MARKS["today"]
    body = "The oil produced by the mill was green. It was prepared by hand.\n\n" + BODY
    assert read_book(f"{HEADER}{start}\n{body}\n\n{end}").body == body


def test_reading_a_body_again_changes_nothing() -> None:
    start, end = MARKS["today"]
    body = read_book(f"{HEADER}{start}\n{BODY}\n\n{end}{LICENSE}").body
    assert read_book(body).body == body


SMALL_PRINT = """***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***
Why is this "Small Print!" statement here?  You know: lawyers.

Project Gutenberg is a registered trademark.

*END{}THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*
"""
ETEXT = """The Project Gutenberg Etext of The Lamp, by A. Writer

Copyright laws are changing all over the world, be sure to check them!!

*These Etexts Prepared By Hundreds of Volunteers and Donations*

We are glad that you have found us, and this paragraph is known to nobody.

Title: The Lamp

The Project Gutenberg Etext of The Lamp, by A. Writer
*****This file should be named lamp10.txt or lamp10.zip*****

"""


@pytest.mark.parametrize("stars", ["*", " "])
@pytest.mark.parametrize(
    "form",
    [
        "{etext}{small_print}\n\n{body}",
        "{etext}{small_print}\n\n{body}\n\n\nEnd of The Project Gutenberg Etext of The Lamp\n",
        "{etext}{small_print}\n\n{body}\n\n*** The End of the Project Gutenberg Etext of The Lamp\n",
        "{etext}{body}\n\n{small_print}",
        "{etext}{body}\n\nThe Project Gutenberg Etext of The Lamp\n*****This file should be named lamp10.txt*****\n\n"
        "More information about this book is at the top of this file.\n\n{small_print}",
        "{etext}{body}\n\nEnd of Project Gutenberg's Etext of The Lamp, by A. Writer\n\n{small_print}",
        "{etext}{body}\n\nEnde dieses Project Gutenberg Etextes Die Lampe\n\n{small_print}",
        "{etext}*** START OF THE PROJECT GUTENBERG EBOOK THE LAMP ***\n\n{body}\n\n{small_print}",
    ],
)
def test_an_old_etext_is_read_without_header_and_small_print(form: str, stars: str) -> None:
    book = read_book(form.format(etext=ETEXT, body=BODY, small_print=SMALL_PRINT.format(stars)))
    assert book == Book("The Lamp", BODY)


def test_an_etext_with_the_shortest_header_loses_only_that() -> None:
    assert read_book(f"**Project Gutenberg's The Lamp**\n\nTitle: The Lamp\n\n{BODY}\n").body == BODY


def test_a_book_that_mentions_project_gutenberg_at_its_beginning_is_whole() -> None:
    text = f"Project Gutenberg was a dream when she was born.\n\n{BODY}\n"
    assert read_book(text) == Book("", text)
