"""Dump of any size: copies of the real pages of the sample, each with its own id, title and sentence."""

import bz2
import re
from collections.abc import Iterator
from pathlib import Path

from distilray.config.sample import wikipedia_dump

_PAGE = re.compile(rb"  <page>.*?</page>\n", re.DOTALL)
_ID = re.compile(rb"<id>(\d+)</id>")
_TEXT = re.compile(rb"<text[^>]*[^/]>")
_ID_STEP = 1_000_000_000


def sample_parts() -> tuple[bytes, list[bytes], bytes]:
    """Return header, pages and tail of the sample as XML."""
    xml = bz2.decompress(wikipedia_dump().read_bytes())
    pages = _PAGE.findall(xml)
    return xml[: xml.index(pages[0])], pages, xml[xml.rindex(pages[-1]) + len(pages[-1]) :]


def copies(pages: list[bytes], number: int) -> Iterator[bytes]:
    """Yield `number` copies of each page. The first copy is unchanged."""
    yield from pages
    for copy in range(1, number):
        yield from (_copy(page, copy) for page in pages)


def _copy(page: bytes, copy: int) -> bytes:
    page = _ID.sub(lambda match: b"<id>%d</id>" % (int(match[1]) + copy * _ID_STEP), page, count=1)
    page = page.replace(b"</title>", b" %d</title>" % copy, 1)
    return _TEXT.sub(lambda match: match[0] + b"This is copy number %d of the page.\n\n" % copy, page, count=1)


def write_multistream(path: Path, number: int, *, level: int = 9, pages_per_stream: int = 100) -> int:
    """Write a multistream dump and its index, and return the size of its XML in bytes."""
    head, pages, tail = sample_parts()
    index: list[str] = []
    size = len(head) + len(tail)
    with path.open("wb") as file:
        file.write(bz2.compress(head, level))
        batch: list[bytes] = []

        def flush() -> None:
            for page in batch:
                match = re.search(rb"<title>(.*?)</title>.*?<id>(\d+)</id>", page, re.DOTALL)
                index.append(f"{file.tell()}:{match[2].decode()}:{match[1].decode()}\n")
            file.write(bz2.compress(b"".join(batch), level))
            batch.clear()

        for page in copies(pages, number):
            batch.append(page)
            size += len(page)
            if len(batch) == pages_per_stream:
                flush()
        if batch:
            flush()
        file.write(bz2.compress(tail, level))
    name = path.name.replace("multistream.xml.bz2", "multistream-index.txt.bz2")
    if name != path.name:
        path.with_name(name).write_bytes(bz2.compress("".join(index).encode(), level))
    return size
