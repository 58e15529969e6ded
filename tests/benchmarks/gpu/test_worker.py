"""Results of single cells."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import worker
from benchmarks.gpu.cells import Cell, cells
from benchmarks.gpu.checks import gradient_difference
from benchmarks.gpu.report import table
from benchmarks.gpu.workload import write_shards
from distilray.pretraining_data.batches import collate
from tests.tiny.shards import planned

CELL = Cell("step", "bf16")


@pytest.fixture
def run(monkeypatch):
    """Run a cell that raises an error or returns figures; also return whether its models were dropped."""

    def run_cell(outcome):
        dropped = []

        def measure(workload, cell):
            if isinstance(outcome, Exception):
                raise outcome
            return dict(outcome)

        monkeypatch.setitem(worker.CELLS, "step", measure)
        workload = SimpleNamespace(free=lambda: None, release=lambda: dropped.append(True))
        return worker.run(workload, CELL), bool(dropped)

    return run_cell


@pytest.mark.parametrize(
    ("outcome", "status", "message", "drops_models"),
    [
        ({"tokens_per_s": 5.0}, "ok", None, False),
        ({"is_failed": True, "message": "too far apart"}, "failed", "too far apart", True),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried\nhard"),
            "out of memory",
            "CUDA out of memory. Tried",
            False,
        ),
        (ValueError("no kernel\nmore"), "failed", "ValueError: no kernel", True),
    ],
    ids=["ok", "a failed check", "out of memory", "an error"],
)
def test_the_status_of_a_cell_is_that_of_its_outcome(run, outcome, status, message, drops_models):
    record, is_dropped = run(outcome)
    assert (record["cell"], record["status"], record.get("message")) == (CELL.name, status, message)
    assert is_dropped == drops_models


def test_an_error_that_makes_the_gpu_unusable_ends_the_process(run):
    with pytest.raises(RuntimeError, match="CUDA error"):
        run(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize("size", ["base", "tiny"])
def test_cells_have_different_names_and_known_kinds(size):
    names = [cell.name for cell in cells(size)]
    assert len(set(names)) == len(names)
    assert {cell.kind for cell in cells(size)} == set(worker.CELLS)


def test_the_difference_of_gradients_is_relative_to_their_norm():
    expected = {"weight": torch.tensor([3.0, 0.0]), "bias": torch.tensor([4.0])}
    gradient = {"weight": torch.tensor([3.0, 0.3]), "bias": torch.tensor([4.4])}
    difference, worst = gradient_difference(gradient, expected)
    assert difference == pytest.approx(0.5 / 5)
    assert worst == "bias"


def test_random_examples_are_padded_and_masked_like_real_ones(tmp_path):
    shards = write_shards(str(tmp_path), examples=200, length=40, vocabulary=1200)
    batch = collate(shards, planned(range(200)), pad_id=0)
    lengths = batch.attention_mask.sum(axis=1)
    assert 160 <= (lengths == 40).sum() < 200
    assert lengths.min() >= 8
    assert len(batch.mask_index) == pytest.approx(0.15 * lengths.sum(), rel=0.1)
    assert set(batch.input_ids.flatten()[batch.mask_index]) == {103}
    assert 999 <= batch.mask_labels.min() < batch.mask_labels.max() < 1200


def test_the_table_has_no_empty_columns():
    lines = table([{"cell": "one", "status": "ok", "tokens_per_s": 1234.5}, {"cell": "two", "status": "failed"}])
    assert [line.split() for line in lines.splitlines()[::2]] == [
        ["cell", "status", "tokens/s"],
        ["one", "ok", "1,234"],
    ]
