"""Reports from states and logs in the format of Ray; tests/rehearsal has a real autoscaler."""

import pytest
from ray.core.generated.autoscaler_pb2 import AutoscalingState

from distilray.runtime import autoscaler
from distilray.runtime.autoscaler import AutoscalerReport


@pytest.fixture
def report_on(monkeypatch, tmp_path):
    """Return a function that reports on a state, `rounds` after the request, with a log that has grown by `log`."""

    def report_on(*, bundle=None, log="", rounds=0, **fields):
        version = 7 if fields or rounds else 0
        state = AutoscalingState(autoscaler_state_version=version, **fields)
        monkeypatch.setattr(autoscaler, "_autoscaling_state", lambda: state if version else None)
        monitor_log = tmp_path / "monitor.log"
        monitor_log.write_text("Failed to launch 1 nodes of type gpu8: from an earlier job\n")
        report = AutoscalerReport(bundle or {"CPU": 4, "GPU": 1}, log=monitor_log)
        state.autoscaler_state_version += rounds
        with monitor_log.open("a") as file:
            file.write(log)
        return report

    return report_on


def failed(*times):
    return [{"ray_node_type_name": "gpu8", "failed_ts": seconds} for seconds in times]


REQUESTED = {"pending_instance_requests": [{"ray_node_type_name": "gpu8", "count": 1}]}
STARTING = {"pending_instances": [{"ray_node_type_name": "cpu_spot"}] * 2}
LATER = 4_000_000_000  # seconds since the epoch
IDLE = "no node is being started (is there an autoscaler? see `ray status` on the head)"
LAUNCH = "Failed to launch 1 nodes of type gpu8"
FAILURES = [
    f"{LAUNCH}: Node Launch Exception (InsufficientInstanceCapacity): no p4d left",
    f"{LAUNCH}: VcpuLimitExceeded: more than your vCPU limit of 0",
    "Ray installation failed on instance i-0abc: docker: permission denied",
]


@pytest.mark.parametrize(
    ("state", "summary"),
    [
        ({}, "the autoscaler has reported nothing yet (`ray status` on the head shows its state)"),
        ({"rounds": 1}, IDLE),
        ({**REQUESTED, **STARTING}, "requesting 1 gpu8 from the provider; 2 cpu_spot starting"),
        ({"failed_instance_requests": failed(1, LATER, LATER)}, "2 attempts to start gpu8 failed (see `ray monitor`)"),
        *[
            ({"rounds": 1, "log": f"{LAUNCH}: x\n10:00\tINFO a.py:1 -- {line}\n"}, f"last failure: {line}")
            for line in FAILURES
        ],
        ({"rounds": 1, "log": f"{LAUNCH}: {'x' * 400}\n"}, f"last failure: {f'{LAUNCH}: '.ljust(300, 'x')}"),
        ({"rounds": 1, "log": f"{LAUNCH} with request id 1f7b: \n"}, IDLE),
    ],
    ids=["no state", "idle", "starting", "failed", "capacity", "quota", "installation", "long reason", "no reason"],
)
def test_the_summary_reports_nodes_and_new_failures(report_on, state, summary):
    assert report_on(**state).summary() == summary


@pytest.mark.parametrize(("bundle", "infeasible"), [({"CPU": 4, "GPU": 1}, True), ({"CPU": 99}, False)])
def test_a_request_is_infeasible_if_no_node_type_can_hold_it(report_on, bundle, infeasible):
    gang = {"bundle_selectors": [{"resource_requests": [{"resources_bundle": bundle}]}]}
    report = report_on(infeasible_gang_resource_requests=[gang])
    assert report.is_infeasible() is infeasible
    assert ("no node type of the cluster is large enough" in report.summary()) is infeasible


@pytest.mark.parametrize(
    ("rounds", "state", "expected"),
    [
        (1, STARTING, False),
        (2, STARTING, True),
        (2, REQUESTED, True),
        (2, {"failed_instance_requests": failed(LATER)}, True),
        (2, {"failed_instance_requests": failed(1)}, False),
    ],
)
def test_nodes_are_starting_for_a_request_once_the_autoscaler_has_completed_two_rounds(
    report_on, rounds, state, expected
):
    assert report_on(rounds=rounds, **state).is_starting_nodes() is expected
