"""Detection of the character encoding of text files."""

# ruff: noqa: RUF001 - this module handles typographic characters

import codecs
import re

import charset_normalizer

_BYTE_ORDER_MARKS = (  # UTF-32 LE before UTF-16 LE, whose mark is a prefix of it
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# The most common encodings of each similar group. Considering all of Python's encodings yields exotic guesses.
_CANDIDATES = [
    *[f"cp{number}" for number in (1252, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 437, 850, 852, 866, 932, 949)],
    *["iso8859_2", "iso8859_5", "iso8859_7", "koi8_r", "mac_roman", "euc_jp", "gb18030", "big5"],
]
_SAMPLE_BYTES = 64 << 10
_MAX_CONTROL_FRACTION = 1e-3
_MAX_REPLACED_FRACTION = 1e-4
_MAX_WESTERN_FRACTION = 0.2  # accented letters; read as cp1252, English has 0.001, French 0.05, Russian 1

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_NON_ASCII_LINE = re.compile(rb"[^\n]*[\x80-\xff][^\n]*")
# Characters outside those of Western European typography. They may be letters in an Eastern European encoding.
_NOT_WESTERN = re.compile(
    r"[^\x00-\x7f‘’‚“”„–—…•†‡™œŒŸ\xa0£§©®°´·½¼¾«»ªºÀÁÂÄÅÆÇÈÉÊËÍÎÏÑÓÔÖØÙÚÛÜßàáâäåæçèéêëìíîïñòóôöøùúûüÿ¡¿¢¥×]"
)
_ACCENTED = re.compile(r"[À-ÿœŒŸ]")
# A Mac Roman dash decodes to a capital letter inside a word.
_CAPITAL_INSIDE = re.compile(r"[À-ÖØ-Þ](?<=[a-z].)(?=[a-z])")
# Letters of DOS and ISO 8859 code pages decode to symbols that normally do not occur inside words.
_SYMBOL_INSIDE = re.compile(r"[‚„](?<=[^\W\d_].)|[†‡ˆ‰‹¤«»¹³±¶](?<=[^\W\d_].)(?=[^\W\d_])")
_OTHER_ENCODING = (_NOT_WESTERN, _CAPITAL_INSIDE, _SYMBOL_INSIDE)
# Mojibake: UTF-8 that was decoded as windows-1252 and encoded as UTF-8 again.
_MOJIBAKE = re.compile(r"â€[\u0080-\u00bf˜™œšž“”¦¢¡]|Ã[\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|Â[\u00a0-\u00bf]")
_MOJIBAKE_PREFIXES = ("â€", "Ã", "Â")


class EncodingError(ValueError):
    """The encoding of a file cannot be determined. The message is one line with the best guess."""


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of a file, without byte order mark, and Python's name of its encoding.

    A few invalid bytes in UTF-8 become U+FFFD, which BERT's tokenizer removes.

    Raises:
        EncodingError: if the data is binary, was encoded twice, or has an unknown encoding.
    """
    text, encoding = _detect(data)
    controls = len(_CONTROL.findall(text))
    if controls > max(1, _MAX_CONTROL_FRACTION * len(text)):
        raise EncodingError(f"{controls:,} control characters among {len(text):,} when read as {encoding}")
    wrong = _count_wrong(text, utf8=encoding.startswith("utf"))
    if wrong > max(2, _MAX_CONTROL_FRACTION * len(text)):
        raise EncodingError(f"probably {encoding}, but that gives {wrong:,} wrong characters")
    return text, encoding


def _detect(data: bytes) -> tuple[str, str]:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decode_strictly(data, encoding), encoding.removesuffix("-sig")
    text = data.decode("utf-8", errors="replace")
    replaced = text.count("\ufffd")
    if not replaced or _is_nearly_utf8(text, replaced):
        return text, "utf-8"
    encoding = "cp1252" if _is_western(data) else _guess(data)
    return _decode_strictly(data, encoding), encoding


def _count_wrong(text: str, *, utf8: bool) -> int:
    """Count the sequences that show that the text was decoded, here or earlier, with the wrong encoding."""
    if not utf8:
        return len(_SYMBOL_INSIDE.findall(text))
    return len(_MOJIBAKE.findall(text)) if any(prefix in text for prefix in _MOJIBAKE_PREFIXES) else 0


def _decode_strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise EncodingError(f"probably {encoding}, but byte {error.start:,} is invalid in it") from None


def _is_nearly_utf8(text: str, replaced: int) -> bool:
    """Return True if nearly all non-ASCII characters are valid, which is never so by chance in another encoding."""
    valid = len(text.encode()) - len(text) - 2 * replaced  # continuation bytes, except those of U+FFFD
    return valid >= 10 * replaced and replaced <= max(1, _MAX_REPLACED_FRACTION * len(text))


def _is_western(data: bytes) -> bool:
    """Return True if the bytes are a Western language in windows-1252, or in Latin-1, which decodes the same.

    Statistical detection fails here: the few accented letters of a book fit many encodings equally well.
    """
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    letters = sum(map(str.isalpha, text[:_SAMPLE_BYTES])) or 1
    accented = len(_ACCENTED.findall(text[:_SAMPLE_BYTES]))
    return accented <= max(3, _MAX_WESTERN_FRACTION * letters) and not any(
        pattern.search(text) for pattern in _OTHER_ENCODING
    )


def _guess(data: bytes) -> str:
    """Return the guess of charset-normalizer for a sample of the lines that are not ASCII."""
    sample = bytearray()
    for line in _NON_ASCII_LINE.finditer(data):
        sample += line[0][:_SAMPLE_BYTES] + b"\n"
        if len(sample) >= _SAMPLE_BYTES:
            break
    best = charset_normalizer.from_bytes(bytes(sample[:_SAMPLE_BYTES]), cp_isolation=_CANDIDATES).best()
    if best is None:
        raise EncodingError("not text in any known encoding")
    return "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding
