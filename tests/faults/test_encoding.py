"""Fault tolerance of encoding: killed workers and drivers, object stores, full disks, corpora larger than memory."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from pyarrow import fs

from distilray.pretraining_data import encoding
from distilray.runtime.run_folder import RunFolder
from jobs import encode_corpus
from tests.faults.processes import LIMIT_S, kill, kill_worker, start, wait_for
from tests.tiny.corpus import write_corpus
from tests.tiny.models import write_tokenizer
from tests.tiny.shards import encode_config, encode_in_process

pytestmark = pytest.mark.slow

FILES = 24
# One chunk per file, each taking a quarter of a second because of `dupe_factor`, and several groups of shards.
VALUES = {"max_seq_length": 32, "dupe_factor": 10, "rows_per_shard": 10_000, "chunk_mb": 100, "ray": {"num_cpus": 2}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoding")
    corpus_dir = write_corpus(folder / "corpus", 500 * FILES, files=FILES)
    return {"corpus_dir": corpus_dir, "tokenizer_dir": write_tokenizer(folder / "tokenizer")}


def write_recipe(folder: Path, inputs: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), **inputs, **VALUES}))
    return file


def completed_pieces(folder: Path, stage: str = "chunks") -> dict[str, int]:
    return {piece.name: piece.stat().st_mtime_ns for piece in (folder / "run/pieces" / stage).glob("*.json")}


def content_hash(folder: Path) -> str:
    return str(json.loads((folder / "run/manifest.json").read_text())["content_hash"])


def encode(folder: str, inputs: dict[str, str]) -> dict[str, Any]:
    config = encode_config(folder, **inputs, rows_per_shard=40, chunk_mb=0.001)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    return dict(encode_in_process(config, run).outputs)


@pytest.fixture
def small(tmp_path: Path) -> dict[str, str]:
    return {"corpus_dir": write_corpus(tmp_path / "corpus"), "tokenizer_dir": write_tokenizer(tmp_path / "tokenizer")}


def test_an_object_store_gives_the_same_result_as_a_disk(tmp_path: Path, small: dict[str, str], bucket: str) -> None:
    target, _ = fs.FileSystem.from_uri(bucket)
    for name in ("corpus", "tokenizer"):
        fs.copy_files(str(tmp_path / name), f"data/{name}", destination_filesystem=target)
    remote = {f"{name}_dir": f"{bucket}/{name}" for name in ("corpus", "tokenizer")}
    assert encode(f"{bucket}/run", remote) == encode(str(tmp_path / "run"), small)
    files = target.get_file_info(fs.FileSelector("data/run", recursive=True))
    assert not [info.path for info in files if info.path.startswith("data/run/work")]


@dataclass(frozen=True)
class KilledRun:
    """Run that was killed three times, and its completed chunks at the first time."""

    folder: Path
    completed: dict[str, int]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, root: Path, inputs: dict[str, str]) -> KilledRun:
    """Run whose driver is killed while encoding; in the second attempt, a worker, and the driver while publishing."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, inputs)
    first = start(root, "encode_corpus", recipe)
    wait_for(lambda: len(completed_pieces(folder)) >= 4, first)
    kill(first)
    completed = completed_pieces(folder)
    second = start(root, "encode_corpus", recipe)
    wait_for(lambda: len(completed_pieces(folder)) > len(completed), second)
    kill_worker(second)
    wait_for(lambda: bool(completed_pieces(folder, "groups")), second)
    kill(second)
    assert not (folder / "run/manifest.json").exists()
    return KilledRun(folder, completed)


@pytest.fixture(scope="module")
def resumed(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, str], killed: KilledRun, local_ray: None
) -> dict[str, Path]:
    """Folders of an undisturbed run, of the resumed run, and of one resumed as if a piece had not been recorded."""
    folder = tmp_path_factory.mktemp("resumed")
    for name in ("recorded", "unrecorded"):
        shutil.copytree(killed.folder / "run", folder / name / "run")
    for piece in (folder / "unrecorded/run/pieces/groups").iterdir():
        piece.unlink()
    runs = {name: folder / name for name in ("undisturbed", "recorded", "unrecorded")}
    for run in runs.values():
        assert encode_corpus.main(["--recipe", str(write_recipe(run, inputs))]) == 0
    return runs


def test_after_a_killed_driver_only_incomplete_chunks_are_encoded(resumed: dict[str, Path], killed: KilledRun) -> None:
    assert 4 <= len(killed.completed) < FILES
    completed = completed_pieces(resumed["recorded"])
    assert {name: time for name, time in completed.items() if name in killed.completed} == killed.completed


@pytest.mark.parametrize("name", ["recorded", "unrecorded"])
def test_a_run_whose_worker_and_drivers_were_killed_has_the_same_result(resumed: dict[str, Path], name: str) -> None:
    """The last kill came before or after the group of the shard was recorded."""
    assert content_hash(resumed[name]) == content_hash(resumed["undisturbed"])


def on_a_full_disk(task: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a task so that its files cannot grow beyond 5 kB."""

    def limited(item: Any, **values: Any) -> Any:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        try:
            return task(item, **values)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


def test_a_full_disk_is_one_line_and_the_next_run_resumes(
    tmp_path: Path, small: dict[str, str], capfd: pytest.CaptureFixture[str], local_ray: None
) -> None:
    recipe = write_recipe(tmp_path, {**small, "heldout_fraction": 0.2})
    with patch.object(encoding, "_write_group_task", on_a_full_disk(encoding._write_group_task)):
        assert encode_corpus.main(["--recipe", str(recipe)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"/shards/\S+: cannot be written \(.+\); free space or choose another folder", line)
    assert not list((tmp_path / "run/shards").iterdir())
    completed = completed_pieces(tmp_path)
    assert encode_corpus.main(["--recipe", str(recipe)]) == 0
    assert completed_pieces(tmp_path) == completed


MEASURED = """
import sys
from pathlib import Path
from distilray.pretraining_data import encoded_chunks, shard_writer
from distilray.runtime.run_folder import RunFolder
from tests.tiny.shards import encode_config, encode_in_process

encoded_chunks._BUCKET_BYTES, shard_writer._GROUP_ROWS = 1 << 20, 20_000

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line).split()[1])

def encode(folder, corpus, tokenizer):
    config = encode_config(folder, corpus_dir=corpus, tokenizer_dir=tokenizer, dupe_factor=20, rows_per_shard=5000)
    outputs = encode_in_process(config, RunFolder("encode_corpus", config, {})).outputs
    return sum(entry["bytes"] for entry in outputs.values())

encode(sys.argv[1], sys.argv[2], sys.argv[5])
before = peak()
written = encode(sys.argv[3], sys.argv[4], sys.argv[5])
print(before, peak(), written)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, root: Path, inputs: dict[str, str]) -> None:
    """Encoding all chunks of a corpus in one process takes little more memory than encoding one of them."""
    small = write_corpus(tmp_path / "small", 500, files=1)
    arguments = [str(tmp_path / "a"), small, str(tmp_path / "b"), inputs["corpus_dir"], inputs["tokenizer_dir"]]
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "platform")])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert result.returncode == 0, result.stderr
    before, peak, written = map(int, result.stdout.split())
    assert written > 50e6
    assert 1024 * (peak - before) < written / 3
