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


def hostile(head, text):
    """Return a dump with a hostile page between valid pages."""
    fields = f"<title>B</title><ns>0</ns><id>2</id><revision><id>3</id><text>{text}</text></revision>"
    return dump(page(1), f"<page>{head}{fields}</page>", page(3, "C"))


def bombs(secret):
    """Return content, number of documents, and the reason for the rejection of others, by file name."""
    external = f'<!DOCTYPE x [<!ENTITY x SYSTEM "file://{secret}">]>'
    zeros = bytes(100 * MIB)
    packed = bz2.compress(zeros)
    stream = bz2.compress(dump(page(1))) + packed + bz2.compress(dump(page(3)))
    return {
        "entities.xml": (LOL.encode() + dump(page(1, text=f"&a{LEVELS};")), 0, "contains a DOCTYPE"),
        "entities_in_a_page.xml": (hostile(LOL, f"&a{LEVELS};"), 2, "xml_malformed"),
        "external.xml": (external.encode() + dump(page(1, text="&x;")), 0, "contains a DOCTYPE"),
        "external_in_a_page.xml": (hostile(external, "&x;"), 2, "xml_malformed"),
        "undeclared.xml": (hostile("", "&x;"), 2, "undefined entity"),
        "deep.xml": (hostile("<a>" * 500_000 + "</a>" * 500_000, ""), 2, "nested deeper"),
        "all_of_a_dump.xml.bz2": (packed, 0, "expands more than 200-fold"),
        "stream.xml.bz2": (stream, 2, "bz2_bomb"),
        "text.txt.bz2": (packed, 0, "too_large"),
        "text.txt.gz": (gzip.compress(zeros, 1), 0, "too_large"),
        "text.txt.xz": (lzma.compress(zeros, preset=0), 0, "too_large"),
        "text.txt.zst": (bytes(pa.compress(zeros, codec="zstd")), 0, "too_large"),
    }


def test_bombs_are_rejected_with_their_reasons_quickly_and_with_little_memory(root, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    files = bombs(tmp_path / "secret")
    for name, (content, _, _) in files.items():
        (tmp_path / name).write_bytes(content)
    arguments = [f"{'wikipedia' if '.xml' in name else 'text'}={tmp_path / name}" for name in files]
    command = [sys.executable, str(root / "tests/security/bomb_reader.py"), *arguments]
    environment = {"PYTHONPATH": str(root / "platform")}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr[-2000:]
    assert SECRET not in process.stdout + process.stderr
    results = map(json.loads, process.stdout.splitlines())
    for (name, (_, documents, reason)), result in zip(files.items(), results, strict=True):
        assert reason in " ".join(result["rejected"]), name
        assert result["documents"] == documents, name
        assert result["seconds"] < 5, name
        assert result["rss_mb"] < 200, name  # the imported packages take 160 MB
