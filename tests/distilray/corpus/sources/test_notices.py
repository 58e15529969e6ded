# ruff: noqa: RUF001 - the apostrophe of running text is one of the subjects here
import pytest

from distilray.corpus.sources.gutenberg import remove_notices

BODY = """The lamp went out before the boat had reached the pier, and nobody on
board said a word about it.

Anna counted the steps to the road. There were forty, as there had
always been.

The rope lay where the boy had dropped it."""
LICENSE = """This ebook is licensed for your personal enjoyment only. This ebook may
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
def test_a_note_of_the_transcriber_goes_from_either_end(form: str, note: str) -> None:
    rest = remove_notices(form.format(note=note, body=BODY))
    assert rest.removeprefix("THE LAMP\n\n") == BODY


@pytest.mark.parametrize(
    "text",
    [
        "Note the transcript of the trial, he said.",
        "Notes on the transcription of old songs fill this book.",
        "Note: the boat was gone.",
        "The transcriber's note was lost.",
    ],
)
def test_a_text_that_mentions_notes_stays(text: str) -> None:
    assert remove_notices(f"{text}\n\n{BODY}") == f"{text}\n\n{BODY}"


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
def test_credits_go_only_from_a_file_that_has_them(credit: str) -> None:
    assert remove_notices(f"{credit}\n\n{BODY}", remove_credits=True) == BODY
    assert remove_notices(f"{credit}\n\n{BODY}") == f"{credit}\n\n{BODY}"


@pytest.mark.parametrize(
    "notice",
    [
        f"Smashwords Edition, License Notes\n\n{LICENSE}",
        f"A Smashwords Edition\n\nLicence Notes:\n\n{LICENSE}",
        "Smashwords Edition, License Notes\nThank you for downloading this free ebook. You may share it.",
        f"Published by Jane Doe at Smashwords\n\nSmashwords Edition Copyright 2011 Jane Doe\n\n{LICENSE}",
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
    assert remove_notices(form.format(notice=notice, body=BODY)).removesuffix("\n\n###") == BODY


def test_the_title_above_a_license_stays() -> None:
    page = "The Lamp\nBy Jane Doe\nSmashwords Edition\nThis ebook may not be resold."
    assert remove_notices(f"{page}\n\n{BODY}") == f"The Lamp\nBy Jane Doe\n\n{BODY}"


def test_if_lines_are_paragraphs_only_those_of_the_license_are_removed() -> None:
    lines = ["Smashwords Edition", " ".join(BODY.split()), "This ebook may not be resold.", "She slept."]
    assert remove_notices("\n".join(lines)) == f"{lines[1]}\nShe slept."


@pytest.mark.parametrize(
    "text",
    [
        "“I sold it on Smashwords,” she said.",
        "“Smashwords Edition,” he read aloud.",
        "Smashwords was a small shop at the corner.",
        "Published at Smashwords, the novel was read by forty people.",
        "If you are reading this book and like it, she wrote, write to me.",
    ],
)
def test_a_text_that_mentions_the_store_stays(text: str) -> None:
    assert remove_notices(f"{text}\n\n{BODY}\n\n{text}\n") == f"{text}\n\n{BODY}\n\n{text}\n"


def test_a_notice_in_the_middle_of_a_book_stays() -> None:
    text = f"{BODY}\n\n" * 20 + f"Transcriber's Note: It was so.\n\n{LICENSE}\n\n" + f"{BODY}\n\n" * 20
    assert remove_notices(text) == text
