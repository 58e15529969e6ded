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
    source, rows = source_class(kind=kind, path=file, name="x"), []
    try:
        module.check_file(source, file)
        for part in module.file_ranges(source, file, "x", chunk_bytes=1 << 30):
            rows += list(module.read_documents(source, part, max_document_bytes=16 << 20))
    except InputError as error:
        return 0, [str(error)]
    rejected = [f"{row.reason}: {row.detail}" for row in rows if isinstance(row, BadRow)]
    return len(rows) - len(rejected), rejected


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        start = time.process_time()
        documents, rejected = read(*argument.split("=", 1))
        # `getrusage` would include the memory of the parent process.
        peak_kb = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]
        result = {"documents": documents, "rejected": rejected, "rss_mb": int(peak_kb) / 1024}
        print(json.dumps({**result, "seconds": time.process_time() - start}))
