"""Fault tolerance of the corpus stage: killed workers and drivers, object stores, input larger than memory."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pyarrow import fs

from distilray.config.base import RayConfig
from distilray.runtime.session import ray_session
from jobs import build_corpus
from tests.distilray.corpus.large_dump import copies, sample_parts, write_multistream
from tests.faults.processes import LIMIT_S, kill, kill_worker, start, wait_for

pytestmark = pytest.mark.slow

# At least twenty chunks that take a quarter of a second each, so that a kill hits the middle of a run.
VALUES = {"chunk_mb": 0.125, "file_mb": 0.5, "ray": {"num_cpus": 2}, "duplicates": {"near": {}}}


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dump") / "wiki-multistream.xml.bz2"
    write_multistream(path, 2, level=1, pages_per_stream=5)
    return path


def write_recipe(folder: Path, dump: str, **values: object) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), "sources": [{"path": dump}], **VALUES, **values}))
    return file


def completed_pieces(folder: Path) -> dict[str, int]:
    return {piece.name: piece.stat().st_mtime_ns for piece in (folder / "run/pieces/chunks").glob("*.json")}


def content_hash(folder: Path) -> str:
    return json.loads((folder / "run/manifest.json").read_text())["content_hash"]


def test_an_object_store_gives_the_same_result_as_a_disk(tmp_path: Path, bucket: str) -> None:
    dump = tmp_path / "raw/wiki-multistream.xml.bz2"
    dump.parent.mkdir()
    write_multistream(dump, 1)
    target, _ = fs.FileSystem.from_uri(bucket)
    for file in dump.parent.iterdir():
        with target.open_output_stream(f"data/raw/{file.name}", compression=None) as stream:
            stream.write(file.read_bytes())
    few = {"chunk_mb": 0.5, "file_mb": 1}
    near = write_recipe(tmp_path / "near", str(dump), **few)
    far = write_recipe(tmp_path / "far", f"{bucket}/raw/*.xml.bz2", **few, run_dir=f"{bucket}/run")
    with ray_session(RayConfig(num_cpus=2)):
        for recipe in (near, far):
            assert build_corpus.main(["--recipe", str(recipe)]) == 0
    with target.open_input_stream("data/run/manifest.json") as stream:
        remote_outputs = json.loads(stream.read())["content"]["outputs"]
    outputs = json.loads((tmp_path / "near/run/manifest.json").read_text())["content"]["outputs"]
    assert len(outputs) > 1
    assert remote_outputs == outputs


@dataclass(frozen=True)
class KilledRun:
    """Run that was killed three times, and its completed chunks at the first time."""

    folder: Path
    completed: dict[str, int]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, root: Path, dump: Path) -> KilledRun:
    """Run whose driver is killed while reading; in the second attempt, a worker, and the driver while publishing."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, str(dump))
    first = start(root, "build_corpus", recipe)
    wait_for(lambda: len(completed_pieces(folder)) >= 4, first)
    kill(first)
    completed = completed_pieces(folder)
    second = start(root, "build_corpus", recipe)
    wait_for(lambda: len(completed_pieces(folder)) > len(completed), second)
    kill_worker(second)
    wait_for(lambda: any((folder / "run/pieces/files").glob("*.json")), second)
    kill(second)
    assert not (folder / "run/manifest.json").exists()
    return KilledRun(folder, completed)


@pytest.fixture(scope="module")
def resumed(
    tmp_path_factory: pytest.TempPathFactory, dump: Path, killed: KilledRun, local_ray: None
) -> dict[str, Path]:
    """Folders of an undisturbed run, of the resumed run, and of one resumed as if a piece had not been recorded."""
    folder = tmp_path_factory.mktemp("resumed")
    for name in ("recorded", "unrecorded"):
        shutil.copytree(killed.folder / "run", folder / name / "run")
    for piece in (folder / "unrecorded/run/pieces/files").iterdir():
        piece.unlink()
    runs = {name: folder / name for name in ("undisturbed", "recorded", "unrecorded")}
    for run in runs.values():
        assert build_corpus.main(["--recipe", str(write_recipe(run, str(dump)))]) == 0
    return runs


def test_after_a_killed_driver_only_incomplete_chunks_are_read(resumed: dict[str, Path], killed: KilledRun) -> None:
    assert 4 <= len(killed.completed) < len(completed_pieces(resumed["undisturbed"]))
    completed = completed_pieces(resumed["recorded"])
    assert {name: time for name, time in completed.items() if name in killed.completed} == killed.completed


@pytest.mark.parametrize("name", ["recorded", "unrecorded"])
def test_a_run_whose_worker_and_drivers_were_killed_has_the_same_result(resumed: dict[str, Path], name: str) -> None:
    """The last kill came before or after the published file was recorded."""
    assert content_hash(resumed[name]) == content_hash(resumed["undisturbed"])


MEASURED = """
import sys
from dataclasses import dataclass
from pathlib import Path
from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.extraction import ScreeningData, extract_chunk
from distilray.corpus.chunks import plan_chunks, source_files
from distilray.corpus.publication import plan_groups, publish_group

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

def build(folder, dump):
    config = BuildCorpusConfig.model_validate(
        {"run_dir": folder, "sources": [{"path": dump}], "chunk_mb": 1024, "duplicates": {"near": {}}})
    chunks = plan_chunks(config, source_files(config))
    assert len(chunks) == 1
    counts = vars(extract_chunk(chunks[0], config, folder, ScreeningData()))
    groups = plan_groups([counts], file_bytes=64 << 20)
    return publish_group(groups[0], folder, file_bytes=64 << 20).documents

build(sys.argv[1], sys.argv[2])
before = peak()
documents = build(sys.argv[3], sys.argv[4])
print(before, peak(), documents)
"""


def test_memory_does_not_grow_with_the_input(tmp_path: Path, root: Path) -> None:
    """A task reads a dump that is much larger than the memory it uses."""
    head, pages, tail = sample_parts()
    (tmp_path / "small.xml").write_bytes(head + b"".join(pages) + tail)
    with (tmp_path / "large.xml").open("wb") as file:
        file.write(head)
        for number, page in enumerate(copies(pages, 110)):
            # make one of twelve copies an article, because cleaning is slow
            file.write(page if number // len(pages) % 12 == 0 else re.sub(rb"<ns>0</ns>", b"<ns>1</ns>", page))
        file.write(tail)
    size = (tmp_path / "large.xml").stat().st_size
    arguments = [f"{tmp_path}/{name}" for name in ("a", "small.xml", "b", "large.xml")]
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        env={**os.environ, "PYTHONPATH": str(root / "platform")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert result.returncode == 0, result.stderr
    before, peak, documents = map(int, result.stdout.split())
    assert documents > 800
    assert size > 5 * 1024 * max(peak - before, 1)  # usually 10 to 17 times; the memory that the allocator keeps varies
