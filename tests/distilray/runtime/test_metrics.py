import threading
from pathlib import Path

import pytest

from distilray.runtime import storage
from distilray.runtime.metrics import MetricsFollower, MetricsLog, read_metrics


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "run/metrics.jsonl")


def write_rows(uri, steps):
    log = MetricsLog(uri, keep_to_step=0)
    for step in steps:
        log.append({"step": step, "loss": step / 2})


def steps_in(uri):
    return [row["step"] for row in read_metrics(uri)]


@pytest.mark.parametrize("is_local", [True, False], ids=["disk", "object store"])
def test_each_row_is_in_the_file_as_soon_as_it_is_appended(monkeypatch, uri, is_local):
    monkeypatch.setattr(storage, "is_local", lambda uri: is_local)
    assert read_metrics(uri) == []
    log = MetricsLog(uri, keep_to_step=0)
    for step in (1, 2, 3):
        log.append({"step": step, "loss": step / 2})
        assert read_metrics(uri) == [{"step": each, "loss": each / 2} for each in range(1, step + 1)]


@pytest.mark.parametrize("torn", ["", '{"step": 5, "lo', "{", '{"step": 5, "loss": 2.0'])
@pytest.mark.parametrize(("step", "left"), [(0, []), (2, [1, 2]), (9, [1, 2, 3, 4])])
def test_a_resumed_run_drops_a_torn_row_and_those_after_its_step(uri, torn, step, left):
    write_rows(uri, [1, 2, 3, 4])
    with Path(uri).open("a") as file:
        file.write(torn)
    assert steps_in(uri) == [1, 2, 3, 4]
    MetricsLog(uri, keep_to_step=step).append({"step": step + 1})
    assert steps_in(uri) == [*left, step + 1]


def test_a_follower_receives_only_new_rows_and_each_once(uri):
    write_rows(uri, [1])
    rows, called = [], threading.Event()

    def on_row(row):
        rows.append(row["step"])
        called.set()

    with MetricsFollower(uri, on_row, interval_s=0.001):
        assert not called.wait(0.02)
        MetricsLog(uri, keep_to_step=1).append({"step": 2})
        assert called.wait(10)
        called.clear()
        assert not called.wait(0.02)
    assert rows == [2]
