import json
from types import SimpleNamespace

import pytest

from distilray.training import reporter as reporter_module
from distilray.training.reporter import GAUGES, Reporter

ROW = {"step": 5, "loss": 2.5, "tokens_per_s": 1000.0, "time": 1.0}
SCORES = {"step": 6, "hit@1": 0.5}


class RecordingTrackers:
    def __init__(self):
        self.rows, self.failures = [], []

    def log(self, step, values):
        self.rows.append((step, dict(values)))

    def close(self, *, failed=False):
        self.failures.append(failed)


@pytest.fixture
def trackers():
    return RecordingTrackers()


@pytest.fixture
def open_reporter(tmp_path, trackers):
    def reporter(start=0):
        return Reporter(str(tmp_path), start=start, total=10, trackers=trackers)

    return reporter


def rows_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_rows_and_scores_go_to_their_files_and_to_the_trackers_by_group(tmp_path, open_reporter, trackers):
    with open_reporter() as reporter:
        reporter.log_metrics(ROW)
        reporter.log_scores(SCORES)
    assert rows_of(tmp_path, "metrics.jsonl") == [{**ROW, "total_steps": 10}]
    assert rows_of(tmp_path, "heldout.jsonl") == [SCORES]
    assert trackers.rows == [(5, {"train/loss": 2.5, "train/tokens_per_s": 1000.0}), (6, {"heldout/hit@1": 0.5})]


@pytest.mark.parametrize(("start", "kept"), [(4, [0, 2, 4]), (0, [])], ids=["from a checkpoint", "from scratch"])
def test_rows_after_the_start_are_deleted_on_resume(tmp_path, open_reporter, start, kept):
    with open_reporter() as reporter:
        for step in (0, 2, 4, 6):
            reporter.log_metrics({**ROW, "step": step})
            reporter.log_scores({"step": step})
    with open_reporter(start=start):
        pass
    for name in ("metrics.jsonl", "heldout.jsonl"):
        assert [row["step"] for row in rows_of(tmp_path, name)] == kept


def test_ray_exports_the_metrics_that_have_a_gauge(tmp_path, open_reporter, monkeypatch):
    values, tags = {}, []

    def gauge(name, description, tag_keys):
        return SimpleNamespace(set=lambda value: values.update({name: value}), set_default_tags=tags.append)

    monkeypatch.setattr(reporter_module, "Gauge", gauge)
    monkeypatch.setattr(reporter_module.ray, "is_initialized", lambda: True)
    with open_reporter() as reporter:
        reporter.log_metrics(ROW)
    assert values == {"distilray_loss": 2.5, "distilray_step": 5, "distilray_tokens_per_s": 1000.0}
    assert tags == [{"run": tmp_path.name}] * len(GAUGES)


def test_trackers_are_closed_with_the_outcome_of_the_run(open_reporter, trackers):
    with pytest.raises(RuntimeError), open_reporter():
        raise RuntimeError
    for is_failed in (True, False):
        with open_reporter() as reporter:
            reporter.is_failed = is_failed
    assert trackers.failures == [True, True, False]
