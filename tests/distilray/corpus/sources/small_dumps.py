"""Small dumps of a wiki, written in every form that a real one has."""

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
    """A dump of many streams; `offsets` is where they begin."""

    uri: str
    index: str
    offsets: list[int]


def page(number: int, title: str = "T", text: str = "x", namespace: int = 0, extra: str = "") -> str:
    """The XML of a page; `title` and `text` are escaped already."""
    return (
        f"<page><title>{title}</title><ns>{namespace}</ns><id>{number}</id>{extra}<revision><id>{number + 100}</id>"
        f'<contributor><username>U</username><id>7</id></contributor><text xml:space="preserve">{text}</text>'
        "</revision></page>\n"
    )


def head(minor: int = 10, siteinfo: str = "<siteinfo/>", language: str = "en") -> str:
    """The XML in front of the first page."""
    return HEAD.format(minor=minor, siteinfo=siteinfo, language=language)


def dump(*pages: str, minor: int = 10, siteinfo: str = "<siteinfo/>", language: str = "en") -> bytes:
    """The XML of a dump."""
    return (head(minor, siteinfo, language) + "\n" + "".join(pages) + TAIL).encode()


def pages_of_noise(number: int, size: int, seed: int = 0) -> list[str]:
    """Pages of words that bz2 cannot make small."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyzé", k=rng.randint(1, 12))) for _ in range(2000)]
    return [page(1 + n, f"Page {n}", " ".join(rng.choices(words, k=max(size // 8, 1)))) for n in range(number)]


def write(folder: Path, data: bytes, name: str = "wiki.xml") -> str:
    """Writes a file and gives its path."""
    file = folder / name
    file.write_bytes(data)
    return str(file)


def streams(parts: Iterable[bytes], level: int = 9) -> tuple[bytes, list[int]]:
    """Each part as a stream, and where the streams begin."""
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
    """A dump as Wikimedia writes it: head, groups of pages and tail are streams, and the index names the groups."""
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
    """A dump whose streams end anywhere, also inside a tag."""
    data, _ = streams(xml[at : at + chunk_bytes] for at in range(0, len(xml), chunk_bytes))
    return write(folder, data, "crossing.xml.bz2")
