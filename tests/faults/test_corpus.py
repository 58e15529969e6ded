"""The corpus under faults: a killed worker, a killed driver, a storage far away, input far larger than memory."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import fs

from jobs import build_corpus
from tests.distilray.corpus.large_dump import copies, sample_parts, write_multistream
from tests.faults.processes import LIMIT_S, start, wait_for, workers

pytestmark = pytest.mark.slow

# Twenty parts or more of about half a second, so that a kill comes in the middle.
VALUES = {"part_mb": 0.25, "file_mb": 1, "ray": {"num_cpus": 2}, "duplicates": {"near": {}}}


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "wiki-multistream.xml.bz2"
    write_multistream(path, 4, level=1, pages_per_stream=10)
    return path


def write_recipe(folder: Path, dump: str, **values: object) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), "sources": [{"path": dump}], **VALUES, **values}))
    return file


def marks(folder: Path) -> dict[str, int]:
    return {mark.name: mark.stat().st_mtime_ns for mark in (folder / "run/ledger/parts").glob("*.json")}


def content_hash(folder: Path) -> str:
    return json.loads((folder / "run/manifest.json").read_text())["content_hash"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path, dump: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(root, "build_corpus", write_recipe(folder, str(dump)))
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    return folder


def test_a_killed_worker_changes_nothing(undisturbed: Path, tmp_path: Path, root: Path, dump: Path) -> None:
    process = start(root, "build_corpus", write_recipe(tmp_path, str(dump)))
    wait_for(lambda: len(marks(tmp_path)) >= 2 and bool(workers(process.pid)), process)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    assert content_hash(tmp_path) == content_hash(undisturbed)


def test_after_a_killed_driver_only_unfinished_parts_are_read(
    undisturbed: Path, tmp_path: Path, root: Path, dump: Path
) -> None:
    recipe = write_recipe(tmp_path, str(dump))
    first = start(root, "build_corpus", recipe)
    wait_for(lambda: len(marks(tmp_path)) >= 4, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=LIMIT_S)
    assert not (tmp_path / "run/manifest.json").exists()
    done = marks(tmp_path)
    assert 4 <= len(done) < len(marks(undisturbed))
    second = start(root, "build_corpus", recipe)
    output, _ = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0, output
    assert {name: time for name, time in marks(tmp_path).items() if name in done} == done
    assert content_hash(tmp_path) == content_hash(undisturbed)


@pytest.mark.parametrize("after_the_mark", [True, False])
def test_a_run_that_was_killed_while_it_published_ends_the_same(
    undisturbed: Path, tmp_path: Path, root: Path, dump: Path, after_the_mark: bool
) -> None:
    recipe = write_recipe(tmp_path, str(dump))
    first = start(root, "build_corpus", recipe)
    wait_for(lambda: any((tmp_path / "run/ledger/files").glob("*.json")), first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=LIMIT_S)
    assert not (tmp_path / "run/manifest.json").exists()
    if not after_the_mark:  # the kill came between a file and its mark
        for mark in (tmp_path / "run/ledger/files").iterdir():
            mark.unlink()
    second = start(root, "build_corpus", recipe)
    output, _ = second.communicate(timeout=LIMIT_S)
    assert second.returncode == 0, output
    assert content_hash(tmp_path) == content_hash(undisturbed)


def test_an_object_store_gives_and_takes_what_a_disk_does(
    undisturbed: Path, tmp_path: Path, dump: Path, bucket: str
) -> None:
    target, _ = fs.FileSystem.from_uri(bucket)
    for file in dump.parent.iterdir():
        with target.open_output_stream(f"data/raw/{file.name}", compression=None) as stream:
            stream.write(file.read_bytes())
    recipe = write_recipe(tmp_path, f"{bucket}/raw/*.xml.bz2", run_dir=f"{bucket}/run")
    assert build_corpus.main(["--recipe", str(recipe)]) == 0
    with target.open_input_stream("data/run/manifest.json") as stream:
        outputs = json.loads(stream.read())["content"]["outputs"]
    local: dict[str, Any] = json.loads((undisturbed / "run/manifest.json").read_text())["content"]["outputs"]
    assert outputs == local


MEASURED = """
import sys
from pathlib import Path
from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.documents import Screen, extract_part
from distilray.corpus.inputs import plan_parts, source_files
from distilray.corpus.ledger import Ledger
from distilray.corpus.publication import plan_groups, publish_group

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

def build(folder, dump):
    config = BuildCorpusConfig.model_validate(
        {"run_dir": folder, "sources": [{"path": dump}], "part_mb": 1024, "duplicates": {"near": {}}})
    parts = plan_parts(config, source_files(config))
    assert len(parts) == 1
    Ledger(folder).begin()
    extract_part(parts[0], config, folder, Screen())
    groups = plan_groups(Ledger(folder).facts("parts", [0]), file_bytes=64 << 20)
    return publish_group(groups[0], folder, file_bytes=64 << 20).documents

build(sys.argv[1], sys.argv[2])
before = peak()
documents = build(sys.argv[3], sys.argv[4])
print(before, peak(), documents)
"""


def test_memory_is_bounded_whatever_the_input(tmp_path: Path, root: Path) -> None:
    """One task reads a dump that is more than ten times as large as what it may take beyond the sample."""
    head, pages, tail = sample_parts()
    (tmp_path / "small.xml").write_bytes(head + b"".join(pages) + tail)
    with (tmp_path / "large.xml").open("wb") as file:
        file.write(head)
        for number, page in enumerate(copies(pages, 150)):
            # one in eight copies is an article: reading is quick, cleaning is not
            file.write(page if number // len(pages) % 8 == 0 else re.sub(rb"<ns>0</ns>", b"<ns>1</ns>", page))
        file.write(tail)
    size = (tmp_path / "large.xml").stat().st_size
    arguments = [f"{tmp_path}/{name}" for name in ("a", "small.xml", "b", "large.xml")]
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        env={**os.environ, "PYTHONPATH": str(root / "platform")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert found.returncode == 0, found.stderr
    before, peak, documents = map(int, found.stdout.split())
    assert documents > 1000
    assert size > 10 * 1024 * max(peak - before, 1)
