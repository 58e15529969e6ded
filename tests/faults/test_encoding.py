"""Encoding under faults: a killed worker, a killed driver, a storage far away, a full disk, a corpus beyond memory."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import fs

from distilray.errors import InputError
from distilray.runtime.run_folder import RunFolder
from tests.distilray.tiny_line import encode_config, encode_in_process, write_corpus, write_tokenizer
from tests.faults.processes import LIMIT_S, start, wait_for, workers

pytestmark = pytest.mark.slow

FILES = 24
# A part for each file, of about half a second since it is copied so often; and several groups of shards.
VALUES = {"max_seq_length": 32, "dupe_factor": 20, "rows_per_shard": 20_000, "part_mb": 100, "ray": {"num_cpus": 2}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoding")
    corpus_dir = write_corpus(folder / "corpus", 500 * FILES, files=FILES)
    return {"corpus_dir": corpus_dir, "tokenizer_dir": write_tokenizer(folder / "tokenizer")}


def write_recipe(folder: Path, inputs: dict[str, str]) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({"run_dir": str(folder / "run"), **inputs, **VALUES}))
    return file


def marks(folder: Path, stage: str = "parts") -> dict[str, int]:
    return {mark.name: mark.stat().st_mtime_ns for mark in (folder / "run/ledger" / stage).glob("*.json")}


def content_hash(folder: Path) -> str:
    return str(json.loads((folder / "run/manifest.json").read_text())["content_hash"])


def finish(root: Path, recipe: Path) -> None:
    process = start(root, "encode_corpus", recipe)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT_S)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path, inputs: dict[str, str]) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(root, write_recipe(folder, inputs))
    return folder


def test_a_killed_worker_changes_nothing(undisturbed: Path, tmp_path: Path, root: Path, inputs: dict[str, str]) -> None:
    process = start(root, "encode_corpus", write_recipe(tmp_path, inputs))
    wait_for(lambda: len(marks(tmp_path)) >= 2 and bool(workers(process.pid)), process)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    assert content_hash(tmp_path) == content_hash(undisturbed)


def test_after_a_killed_driver_only_unfinished_parts_are_encoded(
    undisturbed: Path, tmp_path: Path, root: Path, inputs: dict[str, str]
) -> None:
    recipe = write_recipe(tmp_path, inputs)
    process = start(root, "encode_corpus", recipe)
    wait_for(lambda: len(marks(tmp_path)) >= 4, process)
    kill(process)
    done = marks(tmp_path)
    assert 4 <= len(done) < FILES
    finish(root, recipe)
    assert {name: time for name, time in marks(tmp_path).items() if name in done} == done
    assert content_hash(tmp_path) == content_hash(undisturbed)


@pytest.mark.parametrize("after_the_mark", [True, False])
def test_a_run_that_was_killed_while_it_published_ends_the_same(
    undisturbed: Path, tmp_path: Path, root: Path, inputs: dict[str, str], after_the_mark: bool
) -> None:
    recipe = write_recipe(tmp_path, inputs)
    process = start(root, "encode_corpus", recipe)
    wait_for(lambda: bool(marks(tmp_path, "groups")), process)
    kill(process)
    assert not (tmp_path / "run/manifest.json").exists()
    if not after_the_mark:  # the kill came between a shard and the mark of its group
        for mark in (tmp_path / "run/ledger/groups").iterdir():
            mark.unlink()
    finish(root, recipe)
    assert content_hash(tmp_path) == content_hash(undisturbed)


def encode(folder: str, inputs: dict[str, str]) -> dict[str, Any]:
    config = encode_config(folder, **inputs, rows_per_shard=40, part_mb=0.001)
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


def test_a_full_disk_is_one_line_and_what_was_done_is_used_by_the_next_run(
    tmp_path: Path, small: dict[str, str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(.+\); free space or choose another folder"):
            encode(str(tmp_path / "run"), small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run/shards").iterdir())
    assert encode(str(tmp_path / "run"), small) == encode(str(tmp_path / "other"), small)


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
