"""Encoding under faults: a killed worker, a killed driver, a storage far away, a full disk, a corpus beyond memory."""

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
from tests.distilray.tiny_line import encode_config, encode_in_process, write_corpus, write_tokenizer
from tests.faults.processes import LIMIT_S, kill, kill_worker, start, wait_for

pytestmark = pytest.mark.slow

FILES = 24
# A part for each file, of a quarter of a second since it is copied so often; and several groups of shards.
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


def marks(folder: Path, stage: str = "parts") -> dict[str, int]:
    return {mark.name: mark.stat().st_mtime_ns for mark in (folder / "run/pieces" / stage).glob("*.json")}


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


def test_an_object_store_gives_and_takes_what_a_disk_does(tmp_path: Path, small: dict[str, str], bucket: str) -> None:
    target, _ = fs.FileSystem.from_uri(bucket)
    for name in ("corpus", "tokenizer"):
        fs.copy_files(str(tmp_path / name), f"data/{name}", destination_filesystem=target)
    remote = {f"{name}_dir": f"{bucket}/{name}" for name in ("corpus", "tokenizer")}
    assert encode(f"{bucket}/run", remote) == encode(str(tmp_path / "run"), small)
    found = target.get_file_info(fs.FileSelector("data/run", recursive=True))
    assert not [info.path for info in found if info.path.startswith("data/run/work")]


@dataclass(frozen=True)
class Killed:
    """A run that was killed three times, and the marks of its parts at the first time."""

    folder: Path
    done: dict[str, int]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, root: Path, inputs: dict[str, str]) -> Killed:
    """The driver is killed while it encodes; of the same command again a worker, and the driver while it publishes."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder, inputs)
    first = start(root, "encode_corpus", recipe)
    wait_for(lambda: len(marks(folder)) >= 4, first)
    kill(first)
    done = marks(folder)
    second = start(root, "encode_corpus", recipe)
    wait_for(lambda: len(marks(folder)) > len(done), second)
    kill_worker(second)
    wait_for(lambda: bool(marks(folder, "groups")), second)
    kill(second)
    assert not (folder / "run/manifest.json").exists()
    return Killed(folder, done)


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, str], killed: Killed, local_ray: None
) -> dict[str, Path]:
    """An undisturbed run, and the killed one run again: as it is, and as if the kill had come before a mark."""
    folder = tmp_path_factory.mktemp("ended")
    for name in ("after the mark", "before the mark"):
        shutil.copytree(killed.folder / "run", folder / name / "run")
    for mark in (folder / "before the mark/run/pieces/groups").iterdir():
        mark.unlink()
    runs = {name: folder / name for name in ("undisturbed", "after the mark", "before the mark")}
    for run in runs.values():
        assert encode_corpus.main(["--recipe", str(write_recipe(run, inputs))]) == 0
    return runs


def test_after_a_killed_driver_only_unfinished_parts_are_encoded(ended: dict[str, Path], killed: Killed) -> None:
    assert 4 <= len(killed.done) < FILES
    found = marks(ended["after the mark"])
    assert {name: time for name, time in found.items() if name in killed.done} == killed.done


@pytest.mark.parametrize("name", ["after the mark", "before the mark"])
def test_a_run_whose_worker_and_drivers_were_killed_ends_the_same(ended: dict[str, Path], name: str) -> None:
    """The last kill came between a shard and the mark of its group, or after it."""
    assert content_hash(ended[name]) == content_hash(ended["undisturbed"])


def on_a_full_disk(task: Callable[..., Any]) -> Callable[..., Any]:
    """The task, in a worker whose files cannot grow beyond 5 kB."""

    def limited(item: Any, **values: Any) -> Any:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
        try:
            return task(item, **values)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


def test_a_full_disk_is_one_line_and_what_was_done_is_used_by_the_next_run(
    tmp_path: Path, small: dict[str, str], capfd: pytest.CaptureFixture[str], local_ray: None
) -> None:
    recipe = write_recipe(tmp_path, {**small, "heldout_fraction": 0.2})
    with patch.object(encoding, "_publish_task", on_a_full_disk(encoding._publish_task)):
        assert encode_corpus.main(["--recipe", str(recipe)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(r"/shards/\S+: cannot be written \(.+\); free space or choose another folder", line)
    assert not list((tmp_path / "run/shards").iterdir())
    done = marks(tmp_path)
    assert encode_corpus.main(["--recipe", str(recipe)]) == 0
    assert marks(tmp_path) == done


MEASURED = """
import sys
from pathlib import Path
from distilray.pretraining_data.encoding import parts, publication
from distilray.runtime.run_folder import RunFolder
from tests.distilray.tiny_line import encode_config, encode_in_process

parts._BUCKET_BYTES, publication._GROUP_ROWS = 1 << 20, 20_000

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


def test_memory_is_bounded_whatever_the_corpus(tmp_path: Path, root: Path, inputs: dict[str, str]) -> None:
    """Encoding all parts of a corpus in one process takes little more than encoding one of them."""
    small = write_corpus(tmp_path / "small", 500, files=1)
    arguments = [str(tmp_path / "a"), small, str(tmp_path / "b"), inputs["corpus_dir"], inputs["tokenizer_dir"]]
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "platform")])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert found.returncode == 0, found.stderr
    before, peak, written = map(int, found.stdout.split())
    assert written > 50e6
    assert 1024 * (peak - before) < written / 3
