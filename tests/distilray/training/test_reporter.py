import json
from types import SimpleNamespace

import pytest

from distilray.training import reporter as reporter_module
from distilray.training.reporter import GAUGES, Reporter

ROW = {"step": 5, "loss": 2.5, "tokens_per_s": 1000.0, "time": 1.0}


class Trackers:
    """Tracker that keeps its rows."""

    def __init__(self):
        self.rows, self.closed = [], []

    def log(self, step, values):
        self.rows.append((step, dict(values)))

    def close(self, *, failed=False):
        self.closed.append(failed)


@pytest.fixture
def trackers():
    return Trackers()


@pytest.fixture
def gauges(monkeypatch):
    """Metrics that Ray would export, as (name, value), without a session."""
    found = []

    def gauge(name, description, tag_keys):
        return SimpleNamespace(set=lambda value: found.append((name, value)), set_default_tags=lambda tags: None)

    monkeypatch.setattr(reporter_module, "Gauge", gauge)
    monkeypatch.setattr(reporter_module.ray, "is_initialized", lambda: True)
    return found


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_row_is_written_with_the_steps_of_the_run(tmp_path, trackers):
    with Reporter(str(tmp_path), start=0, total=10, trackers=trackers) as reporter:
        reporter.log_metrics(ROW)
    assert lines(tmp_path, "metrics.jsonl") == [{**ROW, "total_steps": 10}]


def test_scores_are_written_to_their_own_file(tmp_path, trackers):
    with Reporter(str(tmp_path), start=0, total=10, trackers=trackers) as reporter:
        reporter.log_scores({"step": 5, "hit@1": 0.5})
    assert lines(tmp_path, "heldout.jsonl") == [{"step": 5, "hit@1": 0.5}]
    assert lines(tmp_path, "metrics.jsonl") == []


def test_trackers_get_numbers_by_group_and_neither_step_nor_time(tmp_path, trackers):
    with Reporter(str(tmp_path), start=0, total=10, trackers=trackers) as reporter:
        reporter.log_metrics(ROW)
        reporter.log_scores({"step": 6, "hit@1": 0.5})
    assert trackers.rows == [
        (5, {"train/loss": 2.5, "train/tokens_per_s": 1000.0}),
        (6, {"heldout/hit@1": 0.5}),
    ]


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path, trackers):
    with Reporter(str(tmp_path), start=0, total=10, trackers=trackers) as reporter:
        for step in (2, 4, 6):
            reporter.log_metrics({**ROW, "step": step})
            reporter.log_scores({"step": step})
    with Reporter(str(tmp_path), start=4, total=10, trackers=trackers):
        pass
    for name in ("metrics.jsonl", "heldout.jsonl"):
        assert [row["step"] for row in lines(tmp_path, name)] == [2, 4]


def test_a_run_that_was_killed_before_its_first_checkpoint_has_its_first_scores_once(tmp_path, trackers):
    for _ in range(2):
        with Reporter(str(tmp_path), start=0, total=10, trackers=trackers) as reporter:
            reporter.log_scores({"step": 0})
    assert [row["step"] for row in lines(tmp_path, "heldout.jsonl")] == [0]


def test_ray_exports_the_metrics_that_have_a_gauge(tmp_path, trackers, gauges):
    with Reporter(str(tmp_path), start=0, total=10, trackers=trackers) as reporter:
        reporter.log_metrics(ROW)
    assert sorted(gauges) == [("distilray_loss", 2.5), ("distilray_step", 5), ("distilray_tokens_per_s", 1000.0)]
    assert {"loss", "step", "tokens_per_s"} <= set(GAUGES)


def test_trackers_learn_whether_the_run_failed(tmp_path, trackers):
    with pytest.raises(RuntimeError), Reporter(str(tmp_path), start=0, total=1, trackers=trackers):
        raise RuntimeError
    with Reporter(str(tmp_path), start=0, total=1, trackers=trackers) as reporter:
        reporter.is_failed = True
    with Reporter(str(tmp_path), start=0, total=1, trackers=trackers):
        pass
    assert trackers.closed == [True, True, False]
