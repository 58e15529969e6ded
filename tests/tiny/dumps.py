"""Small wiki dumps in every form of real ones."""

import bz2
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.{minor}/" version="0.{minor}" xml:lang="{language}">'
    "{siteinfo}"
)
TAIL = "</mediawiki>"
INDEX = "wiki-articles-multistream-index.txt.bz2"
MULTISTREAM = "wiki-articles-multistream.xml.bz2"


@dataclass(frozen=True)
class Multistream:
    """Multistream dump with the offsets of its streams."""

    uri: str
    index: str
    offsets: list[int]


def page(number: int, title: str = "T", text: str = "x", namespace: int = 0, extra: str = "") -> str:
    """Return the XML of a page. `title` and `text` must be escaped."""
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{extra}<revision><id>{number + 100}</id>"
        f'<contributor><username>U</username><id>7</id></contributor><text xml:space="preserve">{text}</text>'
        "</revision></page>\n"
    )


def head(minor: int = 10, siteinfo: str = "<siteinfo/>", language: str = "en") -> str:
    """Return the XML before the first page."""
    return HEAD.format(minor=minor, siteinfo=siteinfo, language=language)


def dump(*pages: str, minor: int = 10, siteinfo: str = "<siteinfo/>", language: str = "en") -> bytes:
    """Return the XML of a dump."""
    return (head(minor, siteinfo, language) + "\n" + "".join(pages) + TAIL).encode()


def pages_of_noise(number: int, size: int, seed: int = 0) -> list[str]:
    """Return pages of words that bz2 cannot compress well."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzé", k=rng.randint(1, 12))) for _ in range(2000)]
    return [page(1 + n, f"Page {n}", " ".join(rng.choices(words, k=max(size // 8, 1)))) for n in range(number)]


def write(folder: Path, data: bytes, name: str = "wiki.xml") -> str:
    """Write a file and return its path."""
    file = folder / name
    file.write_bytes(data)
    return str(file)


def streams(parts: Iterable[bytes], level: int = 9) -> tuple[bytes, list[int]]:
    """Compress each part as a stream, and return the data and the offsets of the streams."""
    data, offsets = b"", []
    for part in parts:
        offsets.append(len(data))
        data += bz2.compress(part, level)
    return data, offsets


def write_multistream(
    folder: Path,
    pages: list[str],
    *,
    pages_per_stream: int = 2,
    index: bool = True,
    siteinfo: str = "<siteinfo/>",
    language: str = "en",
) -> Multistream:
    """Write a dump like Wikimedia: header, groups of pages and tail are streams, and an index lists the groups."""
    groups = [pages[at : at + pages_per_stream] for at in range(0, len(pages), pages_per_stream)]
    parts = [head(siteinfo=siteinfo, language=language), *("".join(group) for group in groups), TAIL]
    data, offsets = streams(part.encode() for part in parts)
    lines = [
        f"{offset}:{at}:T: {at}\n"
        for offset, group in zip(offsets[1:], groups, strict=False)
        for at, _ in enumerate(group)
    ]
    if index:
        write(folder, bz2.compress("".join(lines).encode()), INDEX)
    return Multistream(write(folder, data, MULTISTREAM), str(folder / INDEX), offsets)


def write_crossing(folder: Path, xml: bytes, chunk_bytes: int) -> str:
    """Write a dump whose streams end anywhere, even inside a tag."""
    data, _ = streams(xml[at : at + chunk_bytes] for at in range(0, len(xml), chunk_bytes))
    return write(folder, data, "crossing.xml.bz2")
