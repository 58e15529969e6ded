# ruff: noqa: RUF001 - the apostrophe of running text is one of the subjects here

import pytest

from distilray.corpus.sources.gutenberg import Book, read_book, remove_notices

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


START, END = MARKS["today"]


@pytest.mark.parametrize("era", MARKS)
def test_the_body_is_the_text_between_the_marks(era: str) -> None:
    start, end = MARKS[era]
    assert read_book(f"{HEADER}{start}\n\n{BODY}\n\n\n{end}{LICENSE}").body == BODY


def test_credits_above_the_body_are_removed() -> None:
    assert read_book(f"{HEADER}{START}\n\nProduced by Jane Doe\n\n\n\n{BODY}\n\n\n{END}").body == BODY


def test_the_title_continues_in_indented_lines() -> None:
    assert read_book(f"{HEADER}{START}{BODY}\n{END}").title == "The Lamp and the Pier A Tale of the Northern Coast"


LONG = f"{BODY}\n\n" * 500 + "So it ended."


@pytest.mark.parametrize(
    "body",
    [
        f'{BODY}\n\nShe typed "{END.strip()}" and\nslept. The End of the Project Gutenberg was far off.\n\n{BODY}',
        f"{BODY}\n\n{END}\n{LONG}",
        f"The oil produced by the mill was green. It was prepared by hand.\n\n{BODY}",
    ],
    ids=["quoted marks", "a mark in the middle", "a sentence about producing"],
)
def test_a_book_that_looks_like_its_header_or_license_is_complete(body: str) -> None:
    assert read_book(f"{HEADER}{START}\n{body}\n\n{END}{LICENSE}").body == body


@pytest.mark.parametrize(
    "text",
    [
        f"Title: not a header\n\n{BODY}\n",
        f"Project Gutenberg was a dream when she was born.\n\n{BODY}\n",
        f"{BODY}\n\n{END}\n{LONG}",
    ],
    ids=["another publisher", "mentions Project Gutenberg", "a mark far from the end"],
)
def test_a_file_without_header_is_all_body(text: str) -> None:
    assert read_book(text) == Book("", text)


def test_reading_a_body_again_changes_nothing() -> None:
    body = read_book(f"{HEADER}{START}\n{BODY}\n\n{END}{LICENSE}").body
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


STORY = f"{BODY}\n\nThe rope lay where the boy had dropped it."
STORE_LICENSE = """This ebook is licensed for your personal enjoyment only. This ebook may
not be re-sold or given away to other people.

If you’re reading this book and did not purchase it, please return to
Smashwords.com and purchase your own copy."""


@pytest.mark.parametrize(
    "note",
    [
        "Transcriber's Note: Old spelling has been kept.",
        "TRANSCRIBER’S NOTES:\n\nOld spelling has been kept.",
        "Transcriber's note:\n\n      Old spelling has been kept.\n\n      So have the commas.",
        "[Transcriber's Note: Old spelling has been kept.\n\nSo have the commas.]",
        "Notes by the transcriber: Old spelling has been kept.",
        "Anmerkungen zur Transkription: Der Text ist alt.",
        "ANMERKUNGEN ZUR TRANSKRIPTION\n\nDer Text ist alt.",
        "[Anmerkung des Transkribenten: Der Text ist alt.]",
        "Hinweise zur Transkription:\n\n    Der Text ist alt.",
        "Note du transcripteur : Le texte est vieux.",
        "Notes de transcription\n\nLe texte est vieux.",
        "[Note au lecteur de ce fichier digital:\n\nLe texte est vieux.]",
        "Nota del transcriptor: El texto es viejo.",
        "Note: Project Gutenberg also has an HTML version of this\n      file with pictures. See 1-h.htm or 1-h.zip.",
        "[Note: Images of the original pages are available through\nInternet Archive.]",
        "NOTE: The pictures are at http://www.gutenberg.org/files/1",
        "Note: Project Gutenberg has the first volume of this work.\n\n      See https://www.gutenberg.org/ebooks/1",
    ],
)
@pytest.mark.parametrize("form", ["{note}\n\n\n{body}", "THE LAMP\n\n{note}\n\n{body}", "{body}\n\n\n{note}\n"])
def test_a_note_of_the_transcriber_is_removed_from_either_end(form: str, note: str) -> None:
    rest = remove_notices(form.format(note=note, body=STORY))
    assert rest.removeprefix("THE LAMP\n\n") == STORY


@pytest.mark.parametrize(
    "credit",
    [
        "Produced by Jane Doe and the Online Distributed Proofreading Team",
        "E-text prepared by Jane Doe",
        "This eBook was produced by Jane Doe.",
        "(This file was produced from images of a library.)",
        "Transcribed from the 1901 edition by Jane Doe",
    ],
)
def test_credits_are_only_removed_from_a_file_that_has_them(credit: str) -> None:
    assert remove_notices(f"{credit}\n\n{STORY}", remove_credits=True) == STORY
    assert remove_notices(f"{credit}\n\n{STORY}") == f"{credit}\n\n{STORY}"


@pytest.mark.parametrize(
    "notice",
    [
        f"Smashwords Edition, License Notes\n\n{STORE_LICENSE}",
        f"A Smashwords Edition\n\nLicence Notes:\n\n{STORE_LICENSE}",
        "Smashwords Edition, License Notes\nThank you for downloading this free ebook. You may share it.",
        f"Published by Jane Doe at Smashwords\n\nSmashwords Edition Copyright 2011 Jane Doe\n\n{STORE_LICENSE}",
        "The material in this ebook is licensed for your personal enjoyment only.",
        "Your friends got this copy, but it may not be re-sold and they were told so.",
        "Discover other titles by Jane Doe at Smashwords.com:\nhttps://www.smashwords.com/profile/view/janedoe",
        "Smashwords: https://www.smashwords.com/profile/view/janedoe",
        "Published by J. K. Doe at Smashwords",
        "Other books by Jane Doe at Smashwords:",
        "Discover other titles by Jane Doe",
        "This is a work of fiction. Names and places are not real.",
    ],
)
@pytest.mark.parametrize("form", ["{notice}\n\n{body}", "{body}\n\n###\n\n{notice}\n"])
def test_the_license_of_a_store_is_removed_from_either_end(form: str, notice: str) -> None:
    assert remove_notices(form.format(notice=notice, body=STORY)).removesuffix("\n\n###") == STORY


def test_the_title_above_a_license_is_not_removed() -> None:
    page = "The Lamp\nBy Jane Doe\nSmashwords Edition\nThis ebook may not be resold."
    assert remove_notices(f"{page}\n\n{STORY}") == f"The Lamp\nBy Jane Doe\n\n{STORY}"


def test_if_lines_are_paragraphs_only_those_of_the_license_are_removed() -> None:
    lines = ["Smashwords Edition", " ".join(STORY.split()), "This ebook may not be resold.", "She slept."]
    assert remove_notices("\n".join(lines)) == f"{lines[1]}\nShe slept."


@pytest.mark.parametrize(
    "text",
    [
        "Note the transcript of the trial, he said.",
        "Notes on the transcription of old songs fill this book.",
        "Note: the boat was gone.",
        "The transcriber's note was lost.",
        "“I sold it on Smashwords,” she said.",
        "“Smashwords Edition,” he read aloud.",
        "Smashwords was a small shop at the corner.",
        "Published at Smashwords, the novel was read by forty people.",
        "If you are reading this book and like it, she wrote, write to me.",
    ],
)
def test_a_text_that_mentions_notes_or_the_store_is_unchanged(text: str) -> None:
    assert remove_notices(f"{text}\n\n{STORY}\n\n{text}\n") == f"{text}\n\n{STORY}\n\n{text}\n"


def test_a_notice_in_the_middle_of_a_book_is_not_removed() -> None:
    text = f"{STORY}\n\n" * 20 + f"Transcriber's Note: It was so.\n\n{STORE_LICENSE}\n\n" + f"{STORY}\n\n" * 20
    assert remove_notices(text) == text
