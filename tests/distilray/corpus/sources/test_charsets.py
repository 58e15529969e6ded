# ruff: noqa: RUF001 - quotes and dashes are the subject here

import random

import pytest

from distilray.corpus.sources.books import EncodingError, decode

ENGLISH = "“It was late,” she said — and the café’s owner didn’t answer. The naïve man waited… It cost £5.\n" * 20
FRENCH = "L’été dernier, la forêt était déserte et le garçon rêvait près de la fenêtre ; où était-elle allée ?\n" * 20
RUSSIAN = "Он пошёл к морю и долго смотрел на воду. Ветер был холодный, и никто не говорил ни слова.\n" * 20
JAPANESE = "彼は海へ行き、長いあいだ水を見ていた。風は冷たく、誰も何も言わなかった。\n" * 20


@pytest.mark.parametrize(
    ("text", "stored", "named"),
    [
        (ENGLISH, "utf-8", "utf-8"),
        (ENGLISH, "utf-8-sig", "utf-8"),
        (ENGLISH, "utf-16", "utf-16"),
        (ENGLISH, "utf-32", "utf-32"),
        (ENGLISH, "cp1252", "cp1252"),
        (ENGLISH, "mac_roman", "mac_roman"),
        (FRENCH, "cp1252", "cp1252"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8_r"),
        (JAPANESE, "shift_jis", "cp932"),
    ],
)
def test_text_is_what_was_written(text: str, stored: str, named: str) -> None:
    assert decode(text.encode(stored)) == (text, named)


def test_quotes_and_dashes_of_windows_are_not_control_characters_of_latin_1() -> None:
    assert decode(b"\x93No,\x94 he said \x96 it\x92s late\x85")[0] == "“No,” he said – it’s late…"


def test_accents_of_latin_1_are_western_in_a_text_that_has_few() -> None:
    text = "He sat in the café and read of the façade in München for £3.\n"
    assert decode(text.encode("latin-1"))[0] == text


def test_letters_of_dos_are_not_taken_for_low_quotes() -> None:
    with pytest.raises(EncodingError):
        decode("He sat in the café. ".encode("cp850") * 20)


def test_the_encoding_is_found_where_the_first_sign_stands_far_behind() -> None:
    text = "Plain words and nothing else.\n" * 20_000 + ENGLISH
    assert decode(text.encode("cp1252")) == (text, "cp1252")


def test_utf8_with_a_bad_byte_stays_utf8() -> None:
    assert decode((ENGLISH * 8).encode() + b"\x92" + ENGLISH.encode()) == (ENGLISH * 8 + "\ufffd" + ENGLISH, "utf-8")


def test_the_mark_of_the_end_in_dos_is_no_binary() -> None:
    assert decode(b"words\r\n\x1a")[1] == "utf-8"


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (random.Random(1).randbytes(20_000), "no text in any encoding"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" * 40, "control characters|no text"),
        (ENGLISH.encode("utf-16-le"), "control characters|no text"),
        (b"\xff\xfe" + b"\x00\xd8" * 9, "most like utf-16, but not at byte"),
        (ENGLISH.encode().decode("cp1252", errors="ignore").encode(), "most like utf-8, but wrong in"),
        (FRENCH.encode("cp850", errors="ignore"), "most like cp1252, but wrong in"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_best_guess(data: bytes, detail: str) -> None:
    with pytest.raises(EncodingError, match=detail):
        decode(data)


def test_words_about_mojibake_are_no_mojibake() -> None:
    text = "The sign Ã© stands where é should be. " + ENGLISH
    assert decode(text.encode())[0] == text
