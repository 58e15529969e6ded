"""Memory of stages whose input is larger than memory, measured in separate processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.shards import write_shard
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import EXAMPLES
from tests.distilray.corpus.large_dump import copies, sample_parts
from tests.faults.processes import LIMIT_S
from tests.tiny.corpus import write_corpus
from tests.tiny.models import write_tokenizer
from tests.tiny.shards import encode_config

pytestmark = pytest.mark.slow

MEMORY = """
import sys
from pathlib import Path

def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
"""


def measure(root: Path, script: str, *arguments: object) -> list[int]:
    """Run a script, which can call `memory(name)`, and return the numbers that it prints."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "platform")])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert result.returncode == 0, result.stderr
    return [int(number) for number in result.stdout.split()]


BUILD_CORPUS = """
from distilray.config.corpus import BuildCorpusConfig
from distilray.corpus.extraction import ScreeningData, extract_chunk
from distilray.corpus.chunks import plan_chunks, source_files
from distilray.corpus.publication import plan_groups, publish_group

def build(folder, dump):
    config = BuildCorpusConfig.model_validate(
        {"run_dir": folder, "sources": [{"path": dump}], "chunk_mb": 1024, "duplicates": {"near": {}}})
    (chunk,) = plan_chunks(config, source_files(config))
    counts = vars(extract_chunk(chunk, config, folder, ScreeningData()))
    groups = plan_groups([counts], file_bytes=64 << 20)
    return publish_group(groups[0], folder, file_bytes=64 << 20).documents

build(sys.argv[1], sys.argv[2])
before = memory("VmHWM")
documents = build(sys.argv[3], sys.argv[4])
print(before, memory("VmHWM"), documents)
"""


def test_memory_does_not_grow_with_the_dump(tmp_path: Path, root: Path) -> None:
    """A task reads a dump that is much larger than the memory it uses."""
    head, pages, tail = sample_parts()
    small, large = tmp_path / "small.xml", tmp_path / "large.xml"
    small.write_bytes(head + b"".join(pages) + tail)
    with large.open("wb") as file:
        file.write(head)
        for number, page in enumerate(copies(pages, 110)):
            # Make one of 24 copies an article, because cleaning is slow.
            file.write(page if number // len(pages) % 24 == 0 else re.sub(rb"<ns>0</ns>", b"<ns>1</ns>", page))
        file.write(tail)
    before, peak, documents = measure(root, BUILD_CORPUS, tmp_path / "a", small, tmp_path / "b", large)
    assert documents > 400
    # Usually 10 to 17 times; the memory that the allocator keeps varies.
    assert large.stat().st_size > 5 * max(peak - before, 1)


ENCODE_CORPUS = """
from distilray.pretraining_data import encoded_chunks, shard_writer
from distilray.runtime.run_folder import RunFolder
from tests.tiny.shards import encode_config, encode_in_process

encoded_chunks._BUCKET_BYTES, shard_writer._GROUP_ROWS = 1 << 20, 20_000

def encode(folder, corpus, tokenizer):
    config = encode_config(folder, corpus_dir=corpus, tokenizer_dir=tokenizer, dupe_factor=20, rows_per_shard=5000)
    outputs = encode_in_process(config, RunFolder("encode_corpus", config, {})).outputs
    return sum(entry["bytes"] for entry in outputs.values())

encode(sys.argv[1], sys.argv[2], sys.argv[5])
before = memory("VmHWM")
written = encode(sys.argv[3], sys.argv[4], sys.argv[5])
print(before, memory("VmHWM"), written)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, root: Path) -> None:
    """Encoding all chunks of a corpus in one process takes little more memory than encoding one of them."""
    small = write_corpus(tmp_path / "small", 500, files=1)
    large = write_corpus(tmp_path / "large", 12_000, files=24)
    tokenizer_dir = write_tokenizer(tmp_path / "tokenizer")
    before, peak, written = measure(root, ENCODE_CORPUS, tmp_path / "a", small, tmp_path / "b", large, tokenizer_dir)
    assert written > 50e6
    assert peak - before < written / 3


ROWS, LENGTH, MASKS = 4000, 512, 76
READ_SHARDS = """
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.sample_plan import SamplePlan, micro_batches
from distilray.pretraining_data.shards import ShardSet

def peak_of(folder):
    shards = ShardSet(folder, "train")
    plan, peak = SamplePlan(shards.shard_rows, 500, seed=1, window_rows=8000), 0
    for step in range(plan.total_rows // 500):
        planned = plan.step_rows(step)
        for positions in micro_batches(shards.lengths(planned.rows), num_workers=1, micro_batch_size=50):
            collate(shards, planned.take(positions), pad_id=0)
        peak = max(peak, memory("RssAnon"))
    return peak

print(peak_of(sys.argv[1]), peak_of(sys.argv[2]))
"""


def test_memory_does_not_grow_with_the_shards(tmp_path: Path, root: Path) -> None:
    """Only anonymous memory counts, because the kernel can reclaim the pages of mapped shards."""
    small, large = write_random_shards(tmp_path / "small", 3), write_random_shards(tmp_path / "large", 24)
    first, second = measure(root, READ_SHARDS, tmp_path / "small", tmp_path / "large")
    assert large - small > 100e6
    assert second - first < (large - small) / 10


def write_random_shards(folder: Path, shards: int) -> int:
    """Write a run folder with random examples of full length, and return the bytes of its shards."""
    run = RunFolder("encode_corpus", encode_config(str(folder), max_seq_length=LENGTH), {})
    run.begin()
    outputs = {}
    for number in range(shards):
        ids = np.random.default_rng(number).integers(1000, 30_000, size=ROWS * LENGTH).astype(np.uint16)
        columns = {
            "example_id": np.arange(ROWS) + number * ROWS,
            "shuffle_key": np.arange(ROWS) + number * ROWS,
            "input_ids": lists(ids, LENGTH),
            "segment_b_start": np.full(ROWS, 200),
            "mask_positions": lists(np.tile(np.arange(1, MASKS + 1), ROWS).astype(np.uint16), MASKS),
            "mask_labels": lists(ids[: ROWS * MASKS], MASKS),
            "is_random_next": np.zeros(ROWS, bool),
            "trimmed": np.zeros(ROWS, np.int64),
            "document_a": np.arange(ROWS),
            "document_b": np.arange(ROWS),
        }
        arrays = [pa.array(columns[field.name], type=field.type) for field in EXAMPLES]
        name = f"shards/train-{number:016x}.arrow"
        table = pa.Table.from_arrays(arrays, schema=EXAMPLES)
        outputs[name] = {"split": "train", **write_shard(table, str(folder / name))}
    run.finish({"tokenizer_hash": "none"}, outputs, "shards")
    return sum(entry["bytes"] for entry in outputs.values())


def lists(values: np.ndarray, size: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, size, dtype=np.int32), values)
