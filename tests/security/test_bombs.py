"""Files that expand excessively or refer to other files are rejected quickly and with little memory (S4)."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys

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
# File name -> number of documents, and the reason for the rejection of others.
BOMBS = {
    "entities.xml": (0, "contains a DOCTYPE"),
    "entities_in_a_page.xml": (2, "xml_malformed"),
    "external.xml": (0, "contains a DOCTYPE"),
    "external_in_a_page.xml": (2, "xml_malformed"),
    "undeclared.xml": (2, "undefined entity"),
    "deep.xml": (2, "nested deeper"),
    "all_of_a_dump.xml.bz2": (0, "expands more than 200-fold"),
    "stream.xml.bz2": (2, "bz2_bomb"),
    "text.txt.bz2": (0, "too_large"),
    "text.txt.gz": (0, "too_large"),
    "text.txt.xz": (0, "too_large"),
    "text.txt.zst": (0, "too_large"),
}


def hostile(head, text):
    """Return a dump with a hostile page between valid pages."""
    fields = f"<title>B</title><ns>0</ns><id>2</id><revision><id>3</id><text>{text}</text></revision>"
    return dump(page(1), f"<page>{head}{fields}</page>", page(3, "C"))


def contents(secret):
    """Return the content of each file."""
    external = f'<!DOCTYPE x [<!ENTITY x SYSTEM "file://{secret}">]>'
    zeros = bytes(100 * MIB)
    packed = bz2.compress(zeros)
    return {
        "entities.xml": LOL.encode() + dump(page(1, text=f"&a{LEVELS};")),
        "entities_in_a_page.xml": hostile(LOL, f"&a{LEVELS};"),
        "external.xml": external.encode() + dump(page(1, text="&x;")),
        "external_in_a_page.xml": hostile(external, "&x;"),
        "undeclared.xml": hostile("", "&x;"),
        "deep.xml": hostile("<a>" * 500_000 + "</a>" * 500_000, ""),
        "all_of_a_dump.xml.bz2": packed,
        "stream.xml.bz2": bz2.compress(dump(page(1))) + packed + bz2.compress(dump(page(3))),
        "text.txt.bz2": packed,
        "text.txt.gz": gzip.compress(zeros, 1),
        "text.txt.xz": lzma.compress(zeros, preset=0),
        "text.txt.zst": bytes(pa.compress(zeros, codec="zstd")),
    }


@pytest.fixture(scope="module")
def results(root, tmp_path_factory):
    """Results of reading the files, by name."""
    folder = tmp_path_factory.mktemp("bombs")
    (folder / "secret").write_text(SECRET)
    for name, content in contents(folder / "secret").items():
        (folder / name).write_bytes(content)
    arguments = [f"{'wikipedia' if '.xml' in name else 'text'}={folder / name}" for name in BOMBS]
    result = subprocess.run(
        [sys.executable, str(root / "tests/security/bomb_reader.py"), *arguments],
        env={"PYTHONPATH": str(root / "platform")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert SECRET not in result.stdout + result.stderr
    return dict(zip(BOMBS, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_rejected_with_its_reason_and_the_content_around_it_is_read(results, name):
    documents, reason = BOMBS[name]
    result = results[name]
    assert reason in " ".join(result["rejected"])
    assert result["documents"] == documents
    assert result["seconds"] < 5


def test_reading_all_bombs_takes_less_than_200_mb_of_memory(results):
    # The imported packages take 160 MB.
    assert max(result["rss_mb"] for result in results.values()) < 200
