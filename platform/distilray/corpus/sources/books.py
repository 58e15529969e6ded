"""Books as plain text, one in a file, as Project Gutenberg and others publish them.

Bytes of a text file whose encoding nobody wrote down.
"""


# ruff: noqa: RUF001 - signs of other encodings are the subject here

import codecs
import re
from collections.abc import Iterator

import charset_normalizer

from distilray.config.corpus import BooksSource
from distilray.corpus.sources.book_layout import book_prose
from distilray.corpus.sources.gutenberg import read_book
from distilray.corpus.sources.ranges import RawDocument
from distilray.formats.bad_rows import BadRow
from distilray.formats.lines import FileRange, byte_ranges
from distilray.formats.streams import EmptyFileError, UnreadableError, read_whole, split_suffix, stored_size
from distilray.runtime import storage

_MARKS = (  # the first two bytes of UTF-32 LE are the mark of UTF-16 LE, so it comes first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of those that look alike the ones in use; all that Python knows would give rarer and rarer guesses.
_CANDIDATES = [
    *[f"cp{number}" for number in (1252, 1250, 1251, 1253, 1254, 1255, 1256, 1257, 437, 850, 852, 866, 932, 949)],
    *["iso8859_2", "iso8859_5", "iso8859_7", "koi8_r", "mac_roman", "euc_jp", "gb18030", "big5"],
]
_SAMPLE = 64 << 10
_MAX_CONTROL_FRACTION = 1e-3
_MAX_REPLACED_FRACTION = 1e-4
_MAX_WESTERN_FRACTION = 0.2  # accented letters among all: English has 0.001, French 0.05, Russian 1

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_HIGH = re.compile(rb"[^\n]*[\x80-\xff][^\n]*")
# What the languages of Western Europe and their printers use; any other sign may be a letter of an Eastern encoding.
_NOT_WESTERN = re.compile(
    r"[^\x00-\x7f‘’‚“”„–—…•†‡™œŒŸ\xa0£§©®°´·½¼¾«»ªºÀÁÂÄÅÆÇÈÉÊËÍÎÏÑÓÔÖØÙÚÛÜßàáâäåæçèéêëìíîïñòóôöøùúûüÿ¡¿¢¥×]"
)
_ACCENTED = re.compile(r"[À-ÿœŒŸ]")
# A dash of Mac Roman reads as a capital letter, which then stands inside a word.
_CAPITAL_INSIDE = re.compile(r"[À-ÖØ-Þ](?<=[a-z].)(?=[a-z])")
# What letters of DOS and of ISO 8859 read as, in the wrong code page: signs that stand beside words and not inside,
# and low quotes, which stand before words.
_SIGN_INSIDE = re.compile(r"[‚„](?<=[^\W\d_].)|[†‡ˆ‰‹¤«»¹³±¶](?<=[^\W\d_].)(?=[^\W\d_])")
_ELSEWHERE = (_NOT_WESTERN, _CAPITAL_INSIDE, _SIGN_INSIDE)
# UTF-8 that was read as windows-1252 and written as UTF-8 once more.
_TWICE = re.compile(r"â€[\u0080-\u00bf˜™œšž“”¦¢¡]|Ã[\u0080-\u00bf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|Â[\u00a0-\u00bf]")

_TWICE_BEGINS = ("â€", "Ã", "Â")


class EncodingError(ValueError):
    """Bytes that are no text in an encoding that can be told; the message is one line with the best guess."""


def decode(data: bytes) -> tuple[str, str]:
    """The text of a file and the encoding it is in, by Python's name; without byte order mark.

    In UTF-8 with a few bad bytes these become U+FFFD, which BERT's tokenizer leaves out.

    Raises:
        EncodingError: binary data, text that was encoded twice, or an encoding that cannot be told.
    """
    text, encoding = _decoded(data)
    controls = len(_CONTROL.findall(text))
    if controls > max(1, _MAX_CONTROL_FRACTION * len(text)):
        raise EncodingError(f"{controls:,} control characters among {len(text):,} when read as {encoding}")
    mangled = _mangled(text, utf8=encoding.startswith("utf"))
    if mangled > max(2, _MAX_CONTROL_FRACTION * len(text)):
        raise EncodingError(f"most like {encoding}, but wrong in {mangled:,} places when read so")
    return text, encoding


def _decoded(data: bytes) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding), encoding.removesuffix("-sig")
    text = data.decode("utf-8", errors="replace")
    replaced = text.count("\ufffd")
    if not replaced or _is_nearly_utf8(text, replaced):
        return text, "utf-8"
    encoding = "cp1252" if _is_western(data) else _guess(data)
    return _strictly(data, encoding), encoding


def _mangled(text: str, *, utf8: bool) -> int:
    """Places that show that the text was read, here or before, in an encoding that it is not in."""
    if not utf8:
        return len(_SIGN_INSIDE.findall(text))
    return len(_TWICE.findall(text)) if any(sign in text for sign in _TWICE_BEGINS) else 0


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise EncodingError(f"most like {encoding}, but not at byte {error.start:,}") from None


def _is_nearly_utf8(text: str, replaced: int) -> bool:
    """Whether most signs beyond ASCII are right: by chance, those of another encoding never are."""
    right = len(text.encode()) - len(text) - 2 * replaced  # more bytes than characters, but for the replaced
    return right >= 10 * replaced and replaced <= max(1, _MAX_REPLACED_FRACTION * len(text))


def _is_western(data: bytes) -> bool:
    """Whether the bytes are a Western language in windows-1252 (or Latin-1, whose text reads the same in it).

    Statistics cannot tell this: the few accented letters of a book fit many encodings equally well.
    """
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    letters = sum(map(str.isalpha, text[:_SAMPLE])) or 1
    accented = len(_ACCENTED.findall(text[:_SAMPLE]))
    return accented <= max(3, _MAX_WESTERN_FRACTION * letters) and not any(sign.search(text) for sign in _ELSEWHERE)


def _guess(data: bytes) -> str:
    """What charset-normalizer makes of the lines that are not ASCII: a sample of whole lines, from anywhere."""
    sample = bytearray()
    for line in _HIGH.finditer(data):
        sample += line[0][:_SAMPLE] + b"\n"
        if len(sample) >= _SAMPLE:
            break
    best = charset_normalizer.from_bytes(bytes(sample[:_SAMPLE]), cp_isolation=_CANDIDATES).best()
    if best is None:
        raise EncodingError("no text in any encoding that is known")
    return "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding


_SUFFIXES = {".txt", ".text"}


def is_input(name: str) -> bool:
    """Whether a file of a folder is a book."""
    return split_suffix(name)[2] in _SUFFIXES


def check_file(source: BooksSource, uri: str) -> None:
    """Whether the file is there; one that turns out to be no book is put in quarantine when it is read.

    Raises:
        EmptyFileError: there are no bytes in it.
        InputError: it is missing.
    """
    if not stored_size(uri):
        raise EmptyFileError(uri)
    storage.read_range(uri, 0, 1)  # may be forbidden


def file_ranges(source: BooksSource, uri: str, name: str, *, chunk_bytes: int) -> list[FileRange]:
    """One range: a book is read whole."""
    return byte_ranges(uri, name, chunk_bytes=chunk_bytes, divisible=False)


def read_documents(source: BooksSource, part: FileRange, *, max_document_bytes: int) -> Iterator[RawDocument | BadRow]:
    """The book of a file without header and license of Project Gutenberg. Its key is the file name without suffix."""
    key = split_suffix(part.name)[0]
    try:
        text, _ = decode(read_whole(part.uri, max_bytes=max_document_bytes))
    except UnreadableError as error:
        yield error.bad_row(part.name)
        return
    except EncodingError as error:
        yield BadRow(part.name, 0, "encoding_unknown", f"{error}; convert the file to UTF-8")
        return
    if not text.strip():
        return
    book = read_book(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not book.body.strip():
        yield BadRow(part.name, 0, "empty", "no text in the file")
        return
    title = book.title or key.rpartition("/")[2]
    yield RawDocument(key, title, book.body, len(book.body.encode()))


def prose(source: BooksSource, document: RawDocument) -> str:
    """Paragraphs with a blank line between; see `book_prose`."""
    return book_prose(document.text)
