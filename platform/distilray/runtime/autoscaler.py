"""State of Ray's autoscaler for a pending request: starting nodes, failed launches, infeasible requests."""

import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply

_RPC_TIMEOUT_S = 5
# Only the autoscaler's log contains the reasons for failures.
_FAILURE = re.compile(r"(Failed to launch \d+ nodes? of type [^\s:]+: .+|Ray installation failed on .+)")
_LOG_BYTES = 1 << 20
_MAX_REASON_CHARS = 300


class AutoscalerReport:
    """State of the connected cluster's autoscaler, and its failures since this object was created.

    Args:
        bundle: resources of the pending request, by their names in Ray.
        log: the autoscaler's log, which exists only on the head node, where the drivers of submitted jobs run.
    """

    def __init__(self, bundle: Mapping[str, float], *, log: Path | None = None) -> None:
        self._bundle, self._since = dict(bundle), time.time()
        self._log = log or Path(ray._private.worker.global_worker.node.get_logs_dir_path()) / "monitor.log"
        self._log_start = self._log_size()
        state = _autoscaling_state()
        self._version = 0 if state is None else state.autoscaler_state_version

    def summary(self) -> str:
        """Return a one-line report."""
        state = _autoscaling_state()
        if state is None:
            return "the autoscaler has reported nothing yet (`ray status` on the head shows its state)"
        requested = Counter({request.ray_node_type_name: request.count for request in state.pending_instance_requests})
        starting = Counter(instance.ray_node_type_name for instance in state.pending_instances)
        phrases = [f"requesting {count} {kind} from the provider" for kind, count in requested.items()]
        phrases += [f"{count} {kind} starting" for kind, count in starting.items()]
        if self._is_infeasible(state):
            phrases.append("no node type of the cluster is large enough")
        if reason := self._last_failure():
            phrases.append(f"last failure: {' '.join(reason.split())[:_MAX_REASON_CHARS]}")
        else:
            failed = Counter(self._failed_types(state))
            phrases += [
                f"{count} attempts to start {kind} failed (see `ray monitor`)" for kind, count in failed.items()
            ]
        return "; ".join(phrases) or "no node is being started (is there an autoscaler? see `ray status` on the head)"

    def is_infeasible(self) -> bool:
        """Return whether no node type of the cluster is large enough for the request."""
        state = _autoscaling_state()
        return state is not None and self._is_infeasible(state)

    def is_starting_nodes(self) -> bool:
        """Return whether nodes are starting, or have failed to start, for requests that include this one.

        The result is False until the autoscaler has completed two rounds, because the first may precede the request.
        """
        state = _autoscaling_state()
        if state is None or state.autoscaler_state_version < self._version + 2:
            return False
        return bool(state.pending_instance_requests or state.pending_instances or self._failed_types(state))

    def _is_infeasible(self, state: AutoscalingState) -> bool:
        return any(self._includes_our_bundle(gang) for gang in state.infeasible_gang_resource_requests)

    def _failed_types(self, state: AutoscalingState) -> list[str]:
        # The state also contains the failures of earlier jobs.
        return [
            failed.ray_node_type_name for failed in state.failed_instance_requests if failed.failed_ts >= self._since
        ]

    def _includes_our_bundle(self, gang: Any) -> bool:
        requests = gang.bundle_selectors[0].resource_requests if gang.bundle_selectors else gang.requests
        return any(dict(request.resources_bundle) == self._bundle for request in requests)

    def _last_failure(self) -> str:
        """Return the newest reason for a failed launch, or an empty string."""
        size = self._log_size()
        if size <= self._log_start:
            return ""
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, size - _LOG_BYTES))
            failures = _FAILURE.findall(log.read().decode(errors="replace"))
        return failures[-1] if failures else ""

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.is_file() else 0


def _autoscaling_state() -> AutoscalingState | None:
    """Return the state of the autoscaler, or None before its first report and for autoscaler v1."""
    address = ray.get_runtime_context().gcs_address
    try:
        reply = ray._raylet.GcsClient(address=address).get_cluster_status(timeout_s=_RPC_TIMEOUT_S)
    except ray.exceptions.RayError:
        return None
    state = GetClusterStatusReply.FromString(reply).autoscaling_state
    return state if state.autoscaler_state_version else None
