"""Measurements in a child process that hangs, crashes or runs out of time."""

import os
import textwrap
import time

import pytest

from benchmarks.gpu import cells, processes
from benchmarks.gpu.cells import Cell

CELLS = [Cell("step", "bf16"), Cell("parity", "fp32"), Cell("service", "fp32")]
WORKER = """
import json, os, sys, time
settings = json.load(sys.stdin)
print("not JSON", flush=True)
print(json.dumps({"device": {"device": "none"}}), flush=True)
names = {"step": "bf16 eager all 32", "parity": "parity fp32 eager", "service": "service fp32"}
for cell in settings["cells"]:
    name = names[cell["kind"]]
    print(json.dumps({"start": name}), flush=True)
    if cell["kind"] == settings["hangs"]:
        time.sleep(60)
    if cell["kind"] == settings["crashes"]:
        os._exit(3)
    print(json.dumps({"result": {"cell": name, "status": "ok"}}), flush=True)
print(json.dumps({"end": True}), flush=True)
"""


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Return the status of each cell, measured by the process above."""
    (tmp_path / "stand_in_worker.py").write_text(textwrap.dedent(WORKER))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    def run(*, hangs="", crashes="", minutes=1.0):
        settings = {"hangs": hangs, "crashes": crashes}
        events = processes.measure(settings, CELLS, time.time() + 60 * minutes, module="stand_in_worker")
        results = [event["result"] for event in events if "result" in event]
        return {result["cell"]: result["status"] for result in results}

    return run


def test_every_cell_has_a_result(measure):
    assert measure() == {cell.name: "ok" for cell in CELLS}


def test_a_cell_that_hangs_is_stopped_and_the_others_are_measured(measure, monkeypatch):
    monkeypatch.setitem(cells.LIMITS, "parity", (0.2, 0.2))
    expected = {"bf16 eager all 32": "ok", "parity fp32 eager": "stopped", "service fp32": "ok"}
    assert measure(hangs="parity") == expected


@pytest.mark.parametrize("kind", ["step", "service"])
def test_a_cell_that_ends_the_process_is_reported_and_the_others_are_measured(measure, kind):
    statuses = measure(crashes=kind)
    assert [status for cell in CELLS for status in [statuses[cell.name]] if cell.kind == kind] == ["crashed"]
    assert sorted(statuses.values()) == ["crashed", "ok", "ok"]


def test_nothing_is_measured_after_the_deadline(measure):
    assert measure(minutes=0.0) == {}


def test_a_process_that_ends_before_its_first_cell_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "no_worker.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="process ended before a measurement"):
        list(processes.measure({}, CELLS, time.time() + 60, module="no_worker"))
