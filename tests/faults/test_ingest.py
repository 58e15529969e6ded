"""Memory of reading more shards than fit into memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distilray.pretraining_data.shards import write_shard
from distilray.runtime.run_folder import RunFolder
from distilray.schemas import EXAMPLES
from tests.tiny.shards import encode_config

pytestmark = pytest.mark.slow

ROWS, LENGTH, MASKS = 4000, 512, 76


def lists(values: np.ndarray, size: int) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, size, dtype=np.int32), values)


def write_run(folder: Path, shards: int) -> int:
    """Write a run folder with random examples of full length, and return the bytes of its shards."""
    config = encode_config(str(folder), max_seq_length=LENGTH)
    run = RunFolder("encode_corpus", config, {})
    run.begin()
    outputs = {}
    for number in range(shards):
        rng = np.random.default_rng(number)
        ids = rng.integers(1000, 30_000, size=ROWS * LENGTH).astype(np.uint16)
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
        outputs[name] = {
            "split": "train",
            **write_shard(pa.Table.from_arrays(arrays, schema=EXAMPLES), str(folder / name)),
        }
    run.finish({"tokenizer_hash": "none"}, outputs, "shards")
    return sum(entry["bytes"] for entry in outputs.values())


MEASURED = """
import sys
from distilray.pretraining_data.batches import collate
from distilray.pretraining_data.sample_plan import SamplePlan, micro_batches
from distilray.pretraining_data.shards import ShardSet

def anonymous():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])

def peak_of(folder):
    shards = ShardSet(folder, "train")
    plan, peak = SamplePlan(shards.shard_rows, 500, seed=1, window_rows=8000), 0
    for step in range(plan.total_rows // 500):
        planned = plan.step_rows(step)
        for positions in micro_batches(shards.lengths(planned.rows), num_workers=1, micro_batch_size=50):
            collate(shards, planned.take(positions), pad_id=0)
        peak = max(peak, anonymous())
    return peak

print(peak_of(sys.argv[1]), peak_of(sys.argv[2]))
"""


def test_memory_does_not_grow_with_the_shards(tmp_path: Path, root: Path) -> None:
    """Only anonymous memory counts, because the kernel can reclaim the pages of mapped shards."""
    small, large = write_run(tmp_path / "small", 3), write_run(tmp_path / "large", 24)
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "small"), str(tmp_path / "large")],
        env={**os.environ, "PYTHONPATH": str(root / "platform")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    first, second = map(int, result.stdout.split())
    assert large - small > 100e6
    assert 1024 * (second - first) < (large - small) / 10
