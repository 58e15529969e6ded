"""Read hostile files like the corpus job in a separate process, and print the result of each as a line of JSON.

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
    """Return the number of documents, and the reasons why others were rejected."""
    module, source_class = KINDS[kind]
    source = source_class(kind=kind, path=file, name="x")
    rows = []
    try:
        module.check_file(source, file)
        for part in module.file_ranges(source, file, "x", chunk_bytes=1 << 30):
            rows += list(module.read_documents(source, part, max_document_bytes=16 << 20))
    except InputError as error:
        return 0, [str(error)]
    rejected = [f"{row.reason}: {row.detail}" for row in rows if isinstance(row, BadRow)]
    return len(rows) - len(rejected), rejected


def peak_rss_mb() -> float:
    """Return the peak memory of this process; `getrusage` would include that of its parent."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) / 1024


def main(*arguments: str) -> None:
    for argument in arguments:
        kind, _, file = argument.partition("=")
        start = time.monotonic()
        documents, rejected = read(kind, file)
        result = {"documents": documents, "rejected": rejected, "seconds": time.monotonic() - start}
        print(json.dumps({**result, "rss_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
