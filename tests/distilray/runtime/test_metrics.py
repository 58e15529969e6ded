import json
import threading
from pathlib import Path

import pytest

from distilray.runtime.metrics import MetricsFollower, MetricsLog, read_metrics


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "run" / "metrics.jsonl")


def write_rows(uri, steps):
    log = MetricsLog(uri, keep_to_step=0)
    for step in steps:
        log.append({"step": step, "loss": step / 2})


def test_rows_come_back_as_they_were_appended(uri):
    write_rows(uri, [1, 2, 3])
    assert read_metrics(uri) == [{"step": step, "loss": step / 2} for step in (1, 2, 3)]


def test_each_row_is_in_the_file_as_soon_as_it_is_appended(uri):
    log = MetricsLog(uri, keep_to_step=0)
    for step in (1, 2):
        log.append({"step": step})
        assert [row["step"] for row in read_metrics(uri)] == list(range(1, step + 1))


def test_a_file_that_is_not_there_yet_has_no_rows(uri):
    assert read_metrics(uri) == []


@pytest.mark.parametrize("torn", ['{"step": 4, "lo', "{", '{"step": 4, "loss": 2.0'])
def test_a_torn_last_line_is_left_out(uri, torn):
    write_rows(uri, [1, 2, 3])
    with Path(uri).open("a") as file:
        file.write(torn)
    assert [row["step"] for row in read_metrics(uri)] == [1, 2, 3]


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3, 4])])
def test_a_resumed_run_drops_the_rows_after_its_step(uri, step, kept):
    write_rows(uri, [1, 2, 3, 4])
    MetricsLog(uri, keep_to_step=step)
    assert [row["step"] for row in read_metrics(uri)] == kept


def test_a_resumed_run_writes_on_after_a_torn_line(uri):
    write_rows(uri, [1, 2, 3])
    with Path(uri).open("a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(uri, keep_to_step=2)
    log.append({"step": 3, "loss": 9.0})
    assert [json.loads(line)["step"] for line in Path(uri).read_text().splitlines()] == [1, 2, 3]
    assert read_metrics(uri)[-1]["loss"] == 9.0


def test_a_follower_sees_new_rows_only_and_each_once(uri):
    write_rows(uri, [1])
    seen, called = [], threading.Event()

    def note(row):
        seen.append(row["step"])
        called.set()

    with MetricsFollower(uri, note, interval_s=0.01):
        assert not called.wait(0.1)
        MetricsLog(uri, keep_to_step=1).append({"step": 2})
        assert called.wait(10)
        called.clear()
        assert not called.wait(0.1)
    assert seen == [2]
