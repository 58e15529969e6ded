"""Files that expand excessively or refer to other files are rejected quickly and with little memory (S4)."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.tiny.dumps import dump, page

pytestmark = pytest.mark.slow

MIB = 1 << 20
LEVELS = 11  # levels of tenfold expansion, to 300 GB
LOL = "<!DOCTYPE lolz [" + "".join(
    f'<!ENTITY a{level} "{f"&a{level - 1};" * 10 if level else "lol"}">' for level in range(LEVELS + 1)
) + "]>"  # fmt: skip
SECRET = "the-secret-of-another-file"


def hostile_page(head: str, text: str) -> str:
    fields = f"<title>B</title><ns>0</ns><id>2</id><revision><id>3</id><text>{text}</text></revision>"
    return f"<page>{head}{fields}</page>"


def between(middle: str) -> bytes:
    """Return a dump with a valid page before and after the content."""
    return dump(page(1), middle, page(3, "C"))


def bombs(secret: Path) -> dict[str, tuple[str, bytes]]:
    """Return the kind of source and the content by file name."""
    external = f'<!DOCTYPE x [<!ENTITY x SYSTEM "file://{secret}">]>'
    deep = "<a>" * 500_000 + "</a>" * 500_000
    small = bytes(100 * MIB)
    packed = bz2.compress(small)
    assert len(small) > 1000 * len(packed)
    return {
        "entities.xml": ("wikipedia", LOL.encode() + dump(page(1, text=f"&a{LEVELS};"))),
        "entities_in_a_page.xml": ("wikipedia", between(hostile_page(LOL, f"&a{LEVELS};"))),
        "external.xml": ("wikipedia", external.encode() + dump(page(1, text="&x;"))),
        "external_in_a_page.xml": ("wikipedia", between(hostile_page(external, "&x;"))),
        "undeclared.xml": ("wikipedia", between(hostile_page("", "&x;"))),
        "deep.xml": ("wikipedia", between(f"<page>{deep}</page>")),
        "all_of_a_dump.xml.bz2": ("wikipedia", packed),
        "a_stream_of_a_dump.xml.bz2": ("wikipedia", bz2.compress(dump(page(1))) + packed + bz2.compress(dump(page(3)))),
        "text.txt.bz2": ("text", packed),
        "text.txt.gz": ("text", gzip.compress(small)),
        "text.txt.xz": ("text", lzma.compress(small)),
        "text.txt.zst": ("text", bytes(pa.compress(small, codec="zstd"))),
    }


@pytest.fixture(scope="module")
def results(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Results of reading the files, by name."""
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "secret").write_text(SECRET)
    files = bombs(folder / "secret")
    for name, (_, content) in files.items():
        (folder / name).write_bytes(content)
    arguments = [f"{kind}={folder / name}" for name, (kind, _) in files.items()]
    result = subprocess.run(
        [sys.executable, str(root / "tests/security/bomb_reader.py"), *arguments],
        env={"PYTHONPATH": str(root / "platform")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert SECRET not in result.stdout + result.stderr
    return dict(zip(files, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.parametrize(
    ("name", "documents", "reason"),
    [
        ("entities.xml", 0, "contains a DOCTYPE"),
        ("entities_in_a_page.xml", 2, "xml_malformed"),
        ("external.xml", 0, "contains a DOCTYPE"),
        ("external_in_a_page.xml", 2, "xml_malformed"),
        ("undeclared.xml", 2, "undefined entity"),
        ("deep.xml", 2, "nested deeper"),
        ("all_of_a_dump.xml.bz2", 0, "expands more than 200-fold"),
        ("a_stream_of_a_dump.xml.bz2", 2, "bz2_bomb"),
        ("text.txt.bz2", 0, "too_large"),
        ("text.txt.gz", 0, "too_large"),
        ("text.txt.xz", 0, "too_large"),
        ("text.txt.zst", 0, "too_large"),
    ],
)
def test_a_bomb_is_rejected_with_its_reason_and_the_content_around_it_is_read(
    results: dict[str, dict[str, Any]], name: str, documents: int, reason: str
) -> None:
    result = results[name]
    assert reason in " ".join(result["rejected"])
    assert result["documents"] == documents
    assert result["seconds"] < 5


def test_reading_all_bombs_takes_less_than_200_mb_of_memory(results: dict[str, dict[str, Any]]) -> None:
    # The imported packages take 160 MB.
    assert max(result["rss_mb"] for result in results.values()) < 200
