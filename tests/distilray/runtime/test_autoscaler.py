"""Reports of the autoscaler, from states and logs as Ray writes them; a real one is rehearsed elsewhere."""

import time

import pytest
from ray.core.generated.autoscaler_pb2 import AutoscalingState

from distilray.runtime import autoscaler
from distilray.runtime.autoscaler import AutoscalerReport


def summary(monkeypatch, tmp_path, log="", **fields):
    """Report on an autoscaler in a given state, whose log has grown by `log` since the wait began."""
    state = AutoscalingState(autoscaler_state_version=1, **fields)
    monkeypatch.setattr(autoscaler, "_autoscaling_state", lambda: state)
    monitor_log = tmp_path / "monitor.log"
    monitor_log.write_text("Failed to launch 1 nodes of type gpu8: from an earlier job\n")
    report = AutoscalerReport({"CPU": 4, "GPU": 1}, log=monitor_log)
    with monitor_log.open("a") as file:
        file.write(log)
    return report.summary()


def test_nodes_that_are_being_started_are_reported(monkeypatch, tmp_path):
    reported = summary(
        monkeypatch,
        tmp_path,
        pending_instance_requests=[{"ray_node_type_name": "gpu8", "count": 1}],
        pending_instances=[{"ray_node_type_name": "cpu_spot"}, {"ray_node_type_name": "cpu_spot"}],
    )
    assert reported == "requesting 1 gpu8 from the provider; 2 cpu_spot starting"


@pytest.mark.parametrize(
    "line",
    [
        "Failed to launch 1 nodes of type gpu8: Node Launch Exception (InsufficientInstanceCapacity): no p4d left",
        "Failed to launch 1 nodes of type gpu8: VcpuLimitExceeded: more than your vCPU limit of 0",
        "Ray installation failed on instance i-0abc: docker: permission denied",
    ],
)
def test_why_a_node_could_not_be_started_is_reported_from_the_log_of_the_autoscaler(monkeypatch, tmp_path, line):
    reported = summary(monkeypatch, tmp_path, log=f"2026-01-01 10:00:00,000\tINFO instance_manager.py:1 -- {line}\n")
    assert reported == f"last failure: {line}"


def test_a_failure_without_its_reason_is_not_reported_as_one(monkeypatch, tmp_path):
    line = "Failed to launch 1 nodes of type gpu8 with request id 1f7b: \n"
    assert "last failure" not in summary(monkeypatch, tmp_path, log=line)


def test_failed_launches_are_counted_where_the_log_cannot_be_read_but_not_those_before_the_wait(monkeypatch, tmp_path):
    now = int(time.time()) + 60
    failed = [{"ray_node_type_name": "gpu8", "failed_ts": when} for when in (1, now, now)]
    reported = summary(monkeypatch, tmp_path, failed_instance_requests=failed)
    assert reported == "2 attempts to start gpu8 failed (see `ray monitor`)"


def test_a_request_that_no_node_type_can_hold_is_reported(monkeypatch, tmp_path):
    def gang(**bundle):
        return {"bundle_selectors": [{"resource_requests": [{"resources_bundle": bundle}]}]}

    reported = summary(monkeypatch, tmp_path, infeasible_gang_resource_requests=[gang(CPU=4, GPU=1)])
    assert "no node type" in reported
    assert "no node type" not in summary(monkeypatch, tmp_path, infeasible_gang_resource_requests=[gang(CPU=99)])


@pytest.mark.parametrize(("rounds", "expected"), [(0, False), (1, False), (2, True)])
def test_nodes_count_as_started_for_a_request_once_the_autoscaler_must_have_seen_it(
    monkeypatch, tmp_path, rounds, expected
):
    def state(version):
        return AutoscalingState(autoscaler_state_version=version, pending_instances=[{"ray_node_type_name": "gpu8"}])

    monkeypatch.setattr(autoscaler, "_autoscaling_state", lambda: state(7))
    report = AutoscalerReport({"GPU": 1}, log=tmp_path / "monitor.log")
    monkeypatch.setattr(autoscaler, "_autoscaling_state", lambda: state(7 + rounds))
    assert report.is_starting_nodes() is expected
