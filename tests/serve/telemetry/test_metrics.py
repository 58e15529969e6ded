import functools
from unittest.mock import Mock

import pytest
from prometheus_client import REGISTRY

from serve.batcher import BatchReport
from serve.telemetry.metrics import INSTRUMENTS, RequestRecord, Telemetry
from tests.serve.contract.clients import metric

REQUEST = RequestRecord("id", "POST", "/score", "/score", 429, "Overloaded", 0.03, model="student")
BATCH = BatchReport(rows=3, tokens=40, queue_s=(0.002, 0.2), inference_s=0.03, queued_tokens=7)


def record_everything(telemetry):
    telemetry.record_model("student", revision="abc", dtype="float32")
    telemetry.record_batch(BATCH, "student")
    telemetry.record_request_start()
    telemetry.record_request_start()
    telemetry.record_request(REQUEST)


@pytest.mark.parametrize("row", INSTRUMENTS.values(), ids=lambda row: row.name)
def test_instruments_follow_the_naming_conventions(row):
    assert row.name.startswith("fill_mask_")
    assert row.name.endswith("_total") == (row.kind == "counter")
    assert bool(row.buckets) == (row.kind == "histogram")
    assert list(row.buckets) == sorted(set(row.buckets))
    assert "replica" not in row.labels


def test_a_batch_is_recorded_with_the_wait_of_each_of_its_requests(telemetry):
    for _ in range(2):
        telemetry.record_batch(BATCH, "student")
    expected = {"queue_seconds_count": 4, "queue_seconds_sum": 0.404, "batch_rows_sum": 6, "batch_tokens_sum": 80}
    expected |= {"tokens_total": 80, "inference_seconds_count": 2, "inference_seconds_sum": 0.06, "queue_tokens": 7}
    values = {name: metric(telemetry, f"fill_mask_{name}", model="student", replica="r1") for name in expected}
    assert values == pytest.approx(expected)


def test_a_request_and_a_model_are_recorded(telemetry):
    record_everything(telemetry)
    value = functools.partial(metric, telemetry, replica="r1")
    assert value("fill_mask_requests_total", method="POST", route="/score", status="429", model="student") == 1
    assert value("fill_mask_failures_total", route="/score", error_type="Overloaded") == 1
    assert value("fill_mask_request_seconds_sum", method="POST", route="/score") == pytest.approx(0.03)
    assert value("fill_mask_requests_in_progress") == 1
    model = {"model": "student", "revision": "abc", "dtype": "float32"}
    assert value("fill_mask_model_info", **model) == 1
    telemetry.record_model("student", revision="abc", dtype="float32", in_memory=False)
    assert value("fill_mask_model_info", **model) == 0


def test_every_instrument_is_recorded_in_the_cluster_as_ray_requires():
    ray = Mock()
    record_everything(Telemetry(replica="r1", cluster=ray))
    kinds = {"counter": (ray.Counter, "inc"), "gauge": (ray.Gauge, "set"), "histogram": (ray.Histogram, "observe")}
    for kind, (create, method) in kinds.items():
        rows = [row for row in INSTRUMENTS.values() if row.kind == kind]
        assert [call.args[0] for call in create.call_args_list] == [row.name.removesuffix("_total") for row in rows]
        for row, call in zip(rows, create.call_args_list, strict=True):
            assert call.kwargs["tag_keys"] == (*row.labels, "replica")
            assert call.kwargs.get("boundaries", []) == list(row.buckets)
        written = [tuple(call.args) for call in getattr(create.return_value, method).call_args_list]
        keys = {(*row.labels, "replica") for row in rows}
        assert {tuple(tags) for _, tags in written} == keys
        assert {tags["replica"] for _, tags in written} == {"r1"}
    values = [call.args[0] for call in ray.Histogram.return_value.observe.call_args_list]
    assert values == [3, 40, 0.03, 0.002, 0.2, 0.03]


def test_the_process_is_measured(telemetry):
    assert metric(telemetry, "process_resident_memory_bytes", replica="r1") > 1e6
    assert metric(telemetry, "process_open_fds", replica="r1") > 0
    assert metric(telemetry, "process_cpu_seconds_total", replica="r1") >= 0


def test_two_replicas_in_one_process_share_nothing_and_leave_the_global_registry_alone(telemetry):
    before = set(REGISTRY._names_to_collectors)
    record_everything(Telemetry(replica="r2"))
    assert metric(telemetry, "fill_mask_requests_total") is None
    assert set(REGISTRY._names_to_collectors) == before
