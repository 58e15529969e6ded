"""Reads hostile files as the corpus job does, in a process of its own, and prints what came of each as a line of JSON.

python tests/security/bomb_reader.py KIND=FILE ...
"""

import json
import re
import sys
import time
from pathlib import Path

from distilray.config.corpus import TextSource, WikipediaSource
from distilray.corpus.sources import texts, wikipedia
from distilray.errors import InputError
from distilray.formats.bad_rows import BadRow

KINDS = {"wikipedia": (wikipedia, WikipediaSource), "text": (texts, TextSource)}


def read(kind: str, file: str) -> tuple[int, list[str]]:
    """Number of documents, and why the rest was refused."""
    module, source_class = KINDS[kind]
    source = source_class(kind=kind, path=file, name="x")
    found = []
    try:
        module.check_file(source, file)
        for part in module.file_ranges(source, file, "x", chunk_bytes=1 << 30):
            found += list(module.read_documents(source, part, max_document_bytes=16 << 20))
    except InputError as error:
        return 0, [str(error)]
    refused = [f"{one.reason}: {one.detail}" for one in found if isinstance(one, BadRow)]
    return len(found) - len(refused), refused


def peak_rss_mb() -> float:
    """The most memory that this process has held; `getrusage` would count that of its parent too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main(*named: str) -> None:
    for name in named:
        kind, _, file = name.partition("=")
        start = time.monotonic()
        documents, refused = read(kind, file)
        told = {"documents": documents, "refused": refused, "seconds": time.monotonic() - start}
        print(json.dumps({**told, "rss_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
