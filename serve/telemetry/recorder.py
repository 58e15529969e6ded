"""What happens in a replica, told once and recorded in its own metrics and in those of the cluster."""

import threading
from dataclasses import dataclass

from serve.batcher import BatchReport
from serve.telemetry.makers import ClusterMetrics, Maker, MetricClasses, Record, ReplicaMetrics, recorders

CLIENT_LEFT = 499


@dataclass(frozen=True)
class RequestRecord:
    """One HTTP request that is over.

    Attributes:
        request_id: as the answer carries it.
        method, route: from sets of fixed size.
        path: as the client sent it, below the mount.
        status: of the answer; 499 when the client left before it began.
        error_type: of an error, else empty.
        seconds: from the head of the request to the end of its answer.
        client_left: whether the client left before the end of the answer.
        model: that the request named, or the default one; empty when none was reached.
        facts: what else the route noted about its work, numbers by name.
    """

    request_id: str
    method: str
    route: str
    path: str
    status: int
    error_type: str
    seconds: float
    client_left: bool = False
    model: str = ""
    facts: tuple[tuple[str, float], ...] = ()


class Telemetry:
    """The metrics of one replica.

    Values of labels must come from sets of bounded size: routes, statuses and error types of the code, models of the
    config.

    Args:
        replica: name of the replica, a label on every series.
        cluster: the module `ray.util.metrics` inside a Ray worker, else None.
    """

    def __init__(self, *, replica: str, cluster: MetricClasses | None = None) -> None:
        self.replica = ReplicaMetrics(replica)
        of_cluster = () if cluster is None else (ClusterMetrics(cluster, replica),)
        self._makers: tuple[Maker, ...] = (self.replica, *of_cluster)
        self._recorders: dict[tuple[str, tuple[str, ...]], tuple[Record, ...]] = {}
        self._in_progress, self._lock = 0, threading.Lock()

    def batch(self, report: BatchReport, model: str) -> None:
        """A forward is over."""
        labels = (model,)
        self._record("fill_mask_queue_tokens", report.queued_tokens, labels)
        self._record("fill_mask_batch_rows", report.rows, labels)
        self._record("fill_mask_batch_tokens", report.tokens, labels)
        self._record("fill_mask_inference_seconds", report.inference_s, labels)
        if report.tokens:
            self._record("fill_mask_tokens_total", report.tokens, labels)
        for wait in report.queue_s:
            self._record("fill_mask_queue_seconds", wait, labels)

    def request_began(self) -> None:
        """One more request is in progress."""
        with self._lock:
            self._in_progress += 1
        self._record("fill_mask_requests_in_progress", self._in_progress)

    def request(self, request: RequestRecord) -> None:
        """A request that had begun is over."""
        with self._lock:
            self._in_progress -= 1
        self._record("fill_mask_requests_in_progress", self._in_progress)
        method, route = request.method, request.route
        self._record("fill_mask_requests_total", 1, (method, route, str(request.status), request.model))
        self._record("fill_mask_request_seconds", request.seconds, (method, route))
        if request.error_type:
            self._record("fill_mask_failures_total", 1, (route, request.error_type))

    def model(self, name: str, *, revision: str, dtype: str, in_memory: bool = True) -> None:
        """A model was loaded, or has left the memory."""
        self._record("fill_mask_model_info", int(in_memory), (name, revision, dtype))

    def _record(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        series = (name, labels)
        found = self._recorders.get(series)
        if found is None:
            found = self._recorders[series] = recorders(self._makers, name, labels)
        for record in found:
            record(value)
