import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from distilray.config.pretraining_data import CacheConfig
from distilray.errors import InputError
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import ShardSet
from distilray.runtime import storage
from distilray.runtime.cache import LocalCache
from tests.tiny.shards import planned

pytestmark = pytest.mark.slow


@pytest.fixture
def remote(bucket, shards_dir):
    """URI of the shards in an object store."""
    target, _ = fs.FileSystem.from_uri(bucket)
    fs.copy_files(shards_dir, "data/run", destination_filesystem=target)
    return f"{bucket}/run"


@pytest.fixture
def cache(tmp_path):
    return ShardCache(CacheConfig(directory=str(tmp_path / "cache")))


@pytest.fixture
def downloads(monkeypatch):
    """Downloaded URIs."""
    made = []
    original = LocalCache.download

    def counted(self, uri, file):
        made.append(uri)
        return original(self, uri, file)

    monkeypatch.setattr(LocalCache, "download", counted)
    return made


def entry_of(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_remote_and_local_shards_give_the_same_batches(remote, shards_dir, cache, tmp_path):
    far, near = ShardSet(remote, "train", cache=cache), ShardSet(shards_dir, "train")
    rows = np.random.default_rng(0).permutation(len(near))[:30]
    assert (
        collate(far, planned(rows), pad_id=0).input_ids.tolist()
        == collate(near, planned(rows), pad_id=0).input_ids.tolist()
    )
    kept = {file.stem for file in (tmp_path / "cache").glob("*.arrow")}
    assert kept == {storage.sha256(str(file)) for file in (Path(shards_dir) / "shards").glob("train-*")}


def test_a_shard_is_downloaded_once_for_all_users(remote, cache, tmp_path, downloads):
    for _ in range(2):
        shards = ShardSet(remote, "train", cache=ShardCache(CacheConfig(directory=str(tmp_path / "cache"))))
        shards.lengths(np.arange(len(shards)))
    assert len(downloads) == len(set(downloads)) == len(shards.shard_rows)


FETCH = """
import sys
from distilray.config.pretraining_data import CacheConfig
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.runtime.cache import LocalCache
original = LocalCache.download
def counted(self, uri, file):
    print("fetched")
    return original(self, uri, file)
LocalCache.download = counted
ShardCache(CacheConfig(directory=sys.argv[1])).download(sys.argv[2], {"sha256": sys.argv[3]})
"""


def test_processes_that_need_a_shard_at_the_same_time_fetch_it_once(remote, shards_dir, tmp_path, root):
    file = sorted((Path(shards_dir) / "shards").iterdir())[0]
    arguments = [str(tmp_path / "cache"), f"{remote}/shards/{file.name}", storage.sha256(str(file))]
    environment = {**os.environ, "PYTHONPATH": str(root / "platform")}
    processes = [
        subprocess.Popen([sys.executable, "-c", FETCH, *arguments], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    output = "".join(process.communicate(timeout=120)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert output.split() == ["fetched"]
    assert storage.sha256(str(tmp_path / "cache" / f"{arguments[2]}.arrow")) == arguments[2]


def test_shards_ahead_are_fetched_in_the_background(remote, cache, tmp_path, downloads):
    shards = ShardSet(remote, "train", cache=cache)
    shards.start_downloads([0, 1])
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "cache").glob("*.arrow"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(downloads) == 2


def test_a_truncated_download_is_repeated(tmp_path, cache, monkeypatch):
    source = tmp_path / "shard"
    source.write_bytes(b"content")
    original, torn = LocalCache.download, []

    def copy(self, uri, file):
        found = original(self, uri, file)
        if not torn:
            torn.append(uri)
            return "0" * 64
        return found

    monkeypatch.setattr(LocalCache, "download", copy)
    assert cache.download(str(source), entry_of(b"content")).read_bytes() == b"content"


def test_a_shard_of_other_content_is_refused_by_name_and_not_kept(tmp_path, cache):
    source = tmp_path / "shard"
    source.write_bytes(b"changed")
    with pytest.raises(InputError, match=r"shard: its content differs from the manifest"):
        cache.download(str(source), entry_of(b"content"))
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_full_disk_is_reported_in_one_line_with_the_folder(tmp_path, cache, monkeypatch):
    source = tmp_path / "shard"
    source.write_bytes(b"content")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cache: cannot store a shard there \(No space.*set cache.directory"):
        cache.download(str(source), entry_of(b"content"))


def test_least_recently_used_shards_are_removed_first(tmp_path):
    small = ShardCache(CacheConfig(directory=str(tmp_path / "cache"), max_gb=25e-9))  # two of ten bytes each
    for number, name in enumerate("abac"):
        (tmp_path / name).write_bytes(name.encode() * 10)
        path = small.download(str(tmp_path / name), entry_of(name.encode() * 10))
        os.utime(path, (number, number))
    kept = {file.read_bytes()[:1] for file in (tmp_path / "cache").glob("*.arrow")}
    assert kept == {b"a", b"c"}
