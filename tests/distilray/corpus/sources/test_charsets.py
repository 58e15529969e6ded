# ruff: noqa: RUF001 - quotes and dashes are the subject here

import random

import pytest

from distilray.corpus.sources.charsets import EncodingError, decode

ENGLISH = "“It was late,” she said — and the café’s owner didn’t answer. The naïve man waited… It cost £5.\n" * 20
FRENCH = "L’été dernier, la forêt était déserte et le garçon rêvait près de la fenêtre ; où était-elle allée ?\n" * 20
RUSSIAN = "Он пошёл к морю и долго смотрел на воду. Ветер был холодный, и никто не говорил ни слова.\n" * 20
JAPANESE = "彼は海へ行き、長いあいだ水を見ていた。風は冷たく、誰も何も言わなかった。\n" * 20


FEW_ACCENTS = "He sat in the café and read of the façade in München for £3.\n"
LATE_ACCENTS = "Plain words and nothing else.\n" * 20_000 + ENGLISH
MOJIBAKE = "The sign Ã© is printed where é should be. " + ENGLISH
DECODED = {
    "utf-8": (ENGLISH.encode(), ENGLISH, "utf-8"),
    "utf-8 with a mark": (ENGLISH.encode("utf-8-sig"), ENGLISH, "utf-8"),
    "utf-8 with a bad byte": ((ENGLISH * 8).encode() + b"\x92", ENGLISH * 8 + "\ufffd", "utf-8"),
    "utf-8 with words about mojibake": (MOJIBAKE.encode(), MOJIBAKE, "utf-8"),
    "utf-16": (ENGLISH.encode("utf-16"), ENGLISH, "utf-16"),
    "utf-32": (ENGLISH.encode("utf-32"), ENGLISH, "utf-32"),
    "the end mark of DOS": (b"words\r\n\x1a", "words\r\n\x1a", "utf-8"),
    "English of Windows": (ENGLISH.encode("cp1252"), ENGLISH, "cp1252"),
    "French of Windows": (FRENCH.encode("cp1252"), FRENCH, "cp1252"),
    "quotes and dashes of Windows": (
        b"\x93No,\x94 he said \x96 it\x92s late\x85",
        "“No,” he said – it’s late…",
        "cp1252",
    ),
    "few accents of latin-1": (FEW_ACCENTS.encode("latin-1"), FEW_ACCENTS, "cp1252"),
    "accents far into the file": (LATE_ACCENTS.encode("cp1252"), LATE_ACCENTS, "cp1252"),
    "Mac": (ENGLISH.encode("mac_roman"), ENGLISH, "mac_roman"),
    "Russian of Windows": (RUSSIAN.encode("cp1251"), RUSSIAN, "cp1251"),
    "Russian of Unix": (RUSSIAN.encode("koi8-r"), RUSSIAN, "koi8_r"),
    "Japanese": (JAPANESE.encode("shift_jis"), JAPANESE, "cp932"),
}


@pytest.mark.parametrize("name", DECODED)
def test_the_encoding_of_a_text_is_detected(name: str) -> None:
    data, text, encoding = DECODED[name]
    assert decode(data) == (text, encoding)


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (random.Random(1).randbytes(20_000), "not text in any known encoding"),
        (b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" * 40, "control characters|no text"),
        (ENGLISH.encode("utf-16-le"), "control characters|no text"),
        (b"\xff\xfe" + b"\x00\xd8" * 9, "probably utf-16, but byte"),
        (ENGLISH.encode().decode("cp1252", errors="ignore").encode(), "probably utf-8, but that gives"),
        (FRENCH.encode("cp850", errors="ignore"), "probably cp1252, but that gives"),
        ("He sat in the café. ".encode("cp850") * 20, "wrong characters|not text"),  # its é is a low quote in Windows
    ],
    ids=["random", "an image", "utf-16 without a mark", "half a pair", "encoded twice", "French of DOS", "é of DOS"],
)
def test_data_in_an_unknown_encoding_is_refused_with_the_best_guess(data: bytes, detail: str) -> None:
    with pytest.raises(EncodingError, match=detail):
        decode(data)
