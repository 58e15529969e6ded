"""Local copies of shards in an object store."""

import errno
import hashlib
import os
import threading
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


@pytest.fixture
def cache(tmp_path):
    return ShardCache(CacheConfig(directory=str(tmp_path / "cache")))


@pytest.fixture
def download(tmp_path, cache):
    """Download a file of ten bytes."""

    def run(name, *, cache=cache):
        source = tmp_path / name
        source.write_bytes(name.encode() * 10)
        sha256 = hashlib.sha256(name.encode() * 10).hexdigest()
        return cache.download(str(source), {"sha256": sha256, "bytes": 10})

    return run


@pytest.fixture
def downloads(monkeypatch):
    """Names of downloaded files."""
    names, original = [], LocalCache.download

    def record(cache, uri, file):
        names.append(uri.rpartition("/")[2])
        return original(cache, uri, file)

    monkeypatch.setattr(LocalCache, "download", record)
    return names


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_the_cache_has_the_size_of_the_recipe(tmp_path, download, capacity):
    small = ShardCache(CacheConfig(directory=str(tmp_path / "cache"), max_gb=(10 * capacity + 5) * 1e-9))
    for number, name in enumerate("abcd", 1):
        os.utime(download(name, cache=small), (number, number))
    stored = {file.read_bytes()[:1].decode() for file in (tmp_path / "cache").glob("*.arrow")}
    assert stored == set("abcd"[-capacity:])


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_download_is_repeated_once_and_never_cached(download, tmp_path, monkeypatch, damaged):
    attempts, original = [], LocalCache.download

    def damage(cache, uri, file):
        attempts.append(uri)
        sha256 = original(cache, uri, file)
        return "0" * 64 if len(attempts) <= damaged else sha256

    monkeypatch.setattr(LocalCache, "download", damage)
    if damaged < 2:
        assert download("a").read_bytes() == b"a" * 10
    else:
        with pytest.raises(InputError, match="a: its content differs from the manifest"):
            download("a")
        assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".lock"]
    assert len(attempts) == min(damaged + 1, 2)


def test_a_full_disk_is_reported_with_the_folder(download, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match=r"cache: cannot store a shard there \(No space.*set cache.directory"):
        download("a")


@pytest.fixture
def remote(bucket, shards_dir):
    """URI of the shards in an object store."""
    target, _ = fs.FileSystem.from_uri(bucket)
    fs.copy_files(shards_dir, "data/run", destination_filesystem=target)
    return f"{bucket}/run"


@pytest.mark.slow
def test_remote_shards_give_the_batches_of_local_ones(remote, shards_dir, cache, tmp_path):
    far, near = ShardSet(remote, "train", cache=cache), ShardSet(shards_dir, "train")
    rows = planned(np.random.default_rng(0).permutation(len(near))[:30])
    assert collate(far, rows, pad_id=0).input_ids.tolist() == collate(near, rows, pad_id=0).input_ids.tolist()
    stored = {file.stem for file in (tmp_path / "cache").glob("*.arrow")}
    assert stored == {storage.sha256(str(file)) for file in (Path(shards_dir) / "shards").glob("train-*")}


@pytest.mark.slow
def test_a_shard_is_downloaded_once_for_all_users(remote, tmp_path, downloads):
    for _ in range(2):
        shards = ShardSet(remote, "train", cache=ShardCache(CacheConfig(directory=str(tmp_path / "cache"))))
        shards.lengths(np.arange(len(shards)))
    assert len(downloads) == len(set(downloads)) == len(shards.shard_rows)


@pytest.mark.slow
def test_shards_ahead_are_downloaded_in_the_background(remote, cache, downloads, monkeypatch):
    shards, finished = ShardSet(remote, "train", cache=cache), threading.Semaphore(0)
    original = ShardCache.download

    def download(self, uri, entry):
        path = original(self, uri, entry)
        finished.release()
        return path

    monkeypatch.setattr(ShardCache, "download", download)
    shards.start_downloads([0, 1])
    assert all(finished.acquire(timeout=60) for _ in range(2))
    assert downloads == [Path(name).name for name in shards.names[:2]]
