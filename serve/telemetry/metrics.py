"""Metrics of the service: one table, recorded by this process with prometheus_client, and by Ray for the cluster."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from serve.batcher import BatchReport

Kind = Literal["counter", "gauge", "histogram"]

# Seconds; the default deadline of an answer is 10.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)


@dataclass(frozen=True)
class Instrument:
    """One metric.

    Attributes:
        name: with the suffix `_total` when it is a counter; the cluster's Prometheus shows it with `ray_` in front.
        labels: their values come from sets of bounded size, never from the text of a request.
        buckets: upper bounds of a histogram, ascending.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


INSTRUMENTS: Mapping[str, Instrument] = {
    row.name: row
    for row in (
        Instrument(
            "fill_mask_requests_total",
            "counter",
            "Answers by status; 499 is a client that left before its answer began.",
            ("method", "route", "status", "model"),
        ),
        Instrument(
            "fill_mask_failures_total",
            "counter",
            "Answers that are errors, by their error_type.",
            ("route", "error_type"),
        ),
        Instrument(
            "fill_mask_request_seconds",
            "histogram",
            "Time from the header of a request to the end of its answer.",
            ("method", "route"),
            _SECONDS,
        ),
        Instrument("fill_mask_requests_in_progress", "gauge", "Requests that are being worked on or wait."),
        Instrument(
            "fill_mask_queue_tokens", "gauge", "Tokens that waited for the model when its last batch began.", ("model",)
        ),
        Instrument(
            "fill_mask_queue_seconds", "histogram", "Time that a request waited for the model.", ("model",), _SECONDS
        ),
        Instrument("fill_mask_batch_rows", "histogram", "Texts that shared a forward.", ("model",), _ROWS),
        Instrument(
            "fill_mask_batch_tokens", "histogram", "Tokens that shared a forward, without padding.", ("model",), _TOKENS
        ),
        Instrument("fill_mask_inference_seconds", "histogram", "Time of a forward.", ("model",), _SECONDS),
        Instrument("fill_mask_tokens_total", "counter", "Tokens that the model has read, without padding.", ("model",)),
        Instrument(
            "fill_mask_model_info", "gauge", "1 for every model in memory, else 0.", ("model", "revision", "dtype")
        ),
    )
}

Record = Callable[[float], object]
# All that is read of a client's `accept`: the encoder's own parser raises on versions that are none.
_OPEN_METRICS = "application/openmetrics-text"


class Maker(Protocol):
    """Gives the function that records one value of one series."""

    def __call__(self, instrument: Instrument, labels: tuple[str, ...]) -> Record:
        """The recorder of a series; `labels` in the order of the instrument's."""


class MetricClasses(Protocol):
    """The module `ray.util.metrics`, or what looks like it."""

    @property
    def Counter(self) -> Callable[..., Any]: ...  # noqa: N802
    @property
    def Gauge(self) -> Callable[..., Any]: ...  # noqa: N802
    @property
    def Histogram(self) -> Callable[..., Any]: ...  # noqa: N802


class ReplicaMetrics(Collector):
    """The metrics of this process, beside its memory, files and CPU time, in a registry of their own.

    Args:
        replica: the value of the label `replica` on every series.
    """

    def __init__(self, replica: str) -> None:
        self._replica, self._registry = replica, CollectorRegistry()
        self._metrics = {name: self._made(row) for name, row in INSTRUMENTS.items()}
        ProcessCollector(registry=self._registry)

    def __call__(self, instrument: Instrument, labels: tuple[str, ...]) -> Record:
        """The recorder of a series."""
        metric = self._metrics[instrument.name]
        series = metric.labels(*labels) if labels else metric
        if isinstance(series, Counter):
            return series.inc
        return series.set if isinstance(series, Gauge) else series.observe

    def collect(self) -> Iterable[Metric]:
        """Every metric, with the label of the replica, without the times at which series began."""
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, "replica": self._replica})
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield metric

    def expose(self, accept: str) -> tuple[bytes, str]:
        """The text that Prometheus reads, OpenMetrics if `accept` names it, and its media type."""
        encode, media_type = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in accept.lower() else "")
        return encode(self), media_type

    def _made(self, row: Instrument) -> Counter | Gauge | Histogram:
        if row.kind == "histogram":
            return Histogram(row.name, row.meaning, row.labels, registry=self._registry, buckets=row.buckets)
        kind = Counter if row.kind == "counter" else Gauge
        return kind(row.name, row.meaning, row.labels, registry=self._registry)


class ClusterMetrics:
    """The same metrics on the ports of the cluster's nodes, where Ray adds the prefix `ray_`.

    Args:
        classes: `ray.util.metrics`.
        replica: the value of the label `replica` on every series.
    """

    def __init__(self, classes: MetricClasses, replica: str) -> None:
        self._replica = replica
        self._metrics = {name: self._made(classes, row) for name, row in INSTRUMENTS.items()}

    def __call__(self, instrument: Instrument, labels: tuple[str, ...]) -> Record:
        """The recorder of a series."""
        metric = self._metrics[instrument.name]
        tags = dict(zip(_tag_keys(instrument), (*labels, self._replica), strict=True))
        record = {"counter": "inc", "gauge": "set", "histogram": "observe"}[instrument.kind]
        write = getattr(metric, record)
        return lambda value: write(value, tags)

    @staticmethod
    def _made(classes: MetricClasses, row: Instrument) -> Any:
        keys = _tag_keys(row)
        if row.kind == "histogram":
            return classes.Histogram(row.name, row.meaning, boundaries=list(row.buckets), tag_keys=keys)
        kind = classes.Counter if row.kind == "counter" else classes.Gauge
        return kind(row.name.removesuffix("_total"), row.meaning, tag_keys=keys)  # Ray adds the suffix itself


def _tag_keys(instrument: Instrument) -> tuple[str, ...]:
    return (*instrument.labels, "replica")


def recorders(makers: Sequence[Maker], name: str, labels: tuple[str, ...]) -> tuple[Record, ...]:
    """What records a value of one series, one function per maker."""
    instrument = INSTRUMENTS[name]
    assert len(labels) == len(instrument.labels), f"{name}: {labels}"
    return tuple(maker(instrument, labels) for maker in makers)


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

    def record_request_start(self) -> None:
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
