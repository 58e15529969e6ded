"""Shard cache shared by processes: one download per shard, removal of least recently used ones."""

import fcntl
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from distilray.config.pretraining_data import CacheConfig
from distilray.errors import InputError
from distilray.pretraining_data import shards as shards_module
from distilray.pretraining_data.shard_cache import ShardCache
from distilray.pretraining_data.shards import Shard, ShardSet
from distilray.runtime.cache import LocalCache
from tests.tiny.shards import write_shards


@pytest.fixture
def fetched(tmp_path):
    """Fetch a shard of ten bytes into a cache with a capacity of some shards."""

    def fetch(name, *, room=2, at=None):
        source = tmp_path / name
        source.write_bytes(name.encode() * 10)
        entry = {"sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "bytes": 10}
        cache = ShardCache(CacheConfig(directory=str(tmp_path / "cache"), max_gb=(10 * room + 5) * 1e-9))
        path = cache.download(str(source), entry)
        if at is not None:
            os.utime(path, (at, at))
        return path

    return fetch


def kept(folder):
    return {file.read_bytes()[:1].decode() for file in (folder / "cache").glob("*.arrow")}


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_cache_holds_as_many_gigabytes_as_its_recipe_says(fetched, tmp_path, room):
    for number, name in enumerate("abcd", 1):
        fetched(name, room=room, at=number)
    assert kept(tmp_path) == set("abcd"[-room:])


def test_a_shard_that_was_used_again_outlives_one_that_was_not(fetched, tmp_path):
    fetched("a", at=1)
    fetched("b", at=2)
    fetched("a")  # in place of the time of its last use there is now the present
    fetched("c")
    assert kept(tmp_path) == {"a", "c"}


def test_while_one_process_fetches_a_shard_another_one_waits_for_it(fetched, tmp_path):
    lock = fetched("a").with_suffix(".lock")
    lock.with_suffix(".arrow").unlink()
    with lock.open("w") as held, ThreadPoolExecutor(1) as threads:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threads.submit(fetched, "a")
        time.sleep(0.2)
        assert not waiting.done()
        lock.with_suffix(".arrow").write_bytes(b"by the other one")
        fcntl.flock(held, fcntl.LOCK_UN)
        assert waiting.result(timeout=60).read_bytes() == b"by the other one"


@pytest.mark.parametrize("torn", [0, 1, 2])
def test_a_damaged_download_is_repeated_once_and_never_cached(fetched, tmp_path, monkeypatch, torn):
    arrived = []
    download = LocalCache.download

    def cut_off(cache, uri, file):
        arrived.append(uri)
        whole = download(cache, uri, file)
        return "of a part" if len(arrived) <= torn else whole

    monkeypatch.setattr(LocalCache, "download", cut_off)
    if torn < 2:
        assert fetched("a").read_bytes() == b"a" * 10
    else:
        with pytest.raises(InputError, match="its content differs from the manifest"):
            fetched("a")
        assert kept(tmp_path) == set()
    assert len(arrived) == min(torn + 1, 2)


def test_the_least_recently_used_shard_is_closed(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setattr(shards_module, "_MAX_OPEN_SHARDS", 2)
    shards = ShardSet(write_shards(tmp_path / "run", tokenizer_dir, rows_per_shard=20), "train")
    opened = []
    open_shard = Shard.open
    monkeypatch.setattr(Shard, "open", lambda path, name: opened.append(Path(path).name) or open_shard(path, name))
    first_rows = np.cumsum([0, *shards.shard_rows])
    for shard in (0, 1, 0, 2, 0, 1):
        shards.lengths(first_rows[shard : shard + 1])
    names = [Path(shards.names[shard]).name for shard in (0, 1, 2, 1)]
    assert opened == names
