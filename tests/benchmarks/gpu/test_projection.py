"""Projections of measurements, made while the GPU is busy."""

import pytest

from benchmarks.gpu.cells import Cell
from benchmarks.gpu.processes import Projections


@pytest.mark.slow
def test_steps_are_projected_in_a_process_without_a_gpu(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", "platform:.")
    eager, compiled = Cell("step", "bf16", rows=4), Cell("step", "bf16", True, rows=4)
    with Projections("NVIDIA H200", [eager, compiled, Cell("service", "fp32")], 128) as projections:
        by_cell = {each["cell"]: each for each in projections.collect(timeout=600.0)}
    assert by_cell.keys() == {eager.name, compiled.name}
    assert 0 < by_cell[eager.name]["projected_mfu"] < by_cell[compiled.name]["projected_mfu"] < 1
    parameters = 66_985_530 * 16 + 109_514_298 * 2  # student with gradient and moments in fp32, teacher in bf16
    assert parameters < 1e9 * by_cell[eager.name]["traced_gb"] < 2 * parameters
