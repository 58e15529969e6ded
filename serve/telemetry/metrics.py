"""Metrics of the service, defined in one table and recorded both with prometheus_client and with Ray."""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from serve.batcher import BatchReport

Kind = Literal["counter", "gauge", "histogram"]

# Bucket bounds in seconds; the default deadline of a request is 10 s.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)


@dataclass(frozen=True)
class Instrument:
    """Definition of a metric.

    Attributes:
        name: name with the suffix `_total` for counters; Ray adds the prefix `ray_`.
        labels: label names; their values come from bounded sets, never from the text of a request.
        buckets: ascending upper bounds of a histogram.
    """

    name: str
    kind: Kind
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


INSTRUMENTS: Mapping[str, Instrument] = {
    row.name: row
    for row in (
        Instrument(
            "fill_mask_requests_total",
            "counter",
            "Responses by status; 499 means that the client disconnected before its response started.",
            ("method", "route", "status", "model"),
        ),
        Instrument(
            "fill_mask_failures_total",
            "counter",
            "Error responses by error_type.",
            ("route", "error_type"),
        ),
        Instrument(
            "fill_mask_request_seconds",
            "histogram",
            "Time from the headers of a request to the end of its response.",
            ("method", "route"),
            _SECONDS,
        ),
        Instrument("fill_mask_requests_in_progress", "gauge", "Requests that are running or waiting."),
        Instrument(
            "fill_mask_queue_tokens",
            "gauge",
            "Tokens that were waiting for the model when the last batch started.",
            ("model",),
        ),
        Instrument(
            "fill_mask_queue_seconds", "histogram", "Time a request waited for the model.", ("model",), _SECONDS
        ),
        Instrument("fill_mask_batch_rows", "histogram", "Texts in a forward pass.", ("model",), _ROWS),
        Instrument(
            "fill_mask_batch_tokens", "histogram", "Tokens in a forward pass, without padding.", ("model",), _TOKENS
        ),
        Instrument("fill_mask_inference_seconds", "histogram", "Duration of a forward pass.", ("model",), _SECONDS),
        Instrument("fill_mask_tokens_total", "counter", "Tokens processed by the model, without padding.", ("model",)),
        Instrument(
            "fill_mask_model_info", "gauge", "1 while a model is in memory, else 0.", ("model", "revision", "dtype")
        ),
    )
}

Recorder = Callable[[float], object]
# Only this part of the `accept` header is used, because the encoder's own parser raises on malformed versions.
_OPEN_METRICS = "application/openmetrics-text"


class MetricsBackend(Protocol):
    """Factory of functions that record the values of a series."""

    def __call__(self, instrument: Instrument, labels: tuple[str, ...]) -> Recorder:
        """Return the recorder of a series; `labels` are values in the order of the instrument's labels."""


class MetricsModule(Protocol):
    """Interface of the module `ray.util.metrics`."""

    @property
    def Counter(self) -> Callable[..., Any]: ...  # noqa: N802
    @property
    def Gauge(self) -> Callable[..., Any]: ...  # noqa: N802
    @property
    def Histogram(self) -> Callable[..., Any]: ...  # noqa: N802


class ReplicaMetrics(Collector):
    """Metrics of this process in a registry of their own, with its memory, open files and CPU time.

    Args:
        replica: value of the label `replica` of every series.
    """

    def __init__(self, replica: str) -> None:
        self._replica, self._registry = replica, CollectorRegistry()
        self._metrics = {name: self._create(instrument) for name, instrument in INSTRUMENTS.items()}
        ProcessCollector(registry=self._registry)

    def __call__(self, instrument: Instrument, labels: tuple[str, ...]) -> Recorder:
        metric = self._metrics[instrument.name]
        series = metric.labels(*labels) if labels else metric
        if isinstance(series, Counter):
            return series.inc
        return series.set if isinstance(series, Gauge) else series.observe

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics with the label `replica`, without the creation times of series."""
        for metric in self._registry.collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, "replica": self._replica})
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield metric

    def expose(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in Prometheus' format, or in OpenMetrics if `accept` requests it, and the media type."""
        encode, media_type = choose_encoder(_OPEN_METRICS if _OPEN_METRICS in accept.lower() else "")
        return encode(self), media_type

    def _create(self, instrument: Instrument) -> Counter | Gauge | Histogram:
        if instrument.kind == "histogram":
            return Histogram(
                instrument.name,
                instrument.description,
                instrument.labels,
                registry=self._registry,
                buckets=instrument.buckets,
            )
        kind = Counter if instrument.kind == "counter" else Gauge
        return kind(instrument.name, instrument.description, instrument.labels, registry=self._registry)


class ClusterMetrics:
    """The same metrics on the metrics ports of Ray's nodes, where they have the prefix `ray_`.

    Args:
        module: `ray.util.metrics`.
        replica: value of the label `replica` of every series.
    """

    def __init__(self, module: MetricsModule, replica: str) -> None:
        self._replica = replica
        self._metrics = {name: self._create(module, instrument) for name, instrument in INSTRUMENTS.items()}

    def __call__(self, instrument: Instrument, labels: tuple[str, ...]) -> Recorder:
        metric = self._metrics[instrument.name]
        tags = dict(zip(_tag_keys(instrument), (*labels, self._replica), strict=True))
        record = {"counter": "inc", "gauge": "set", "histogram": "observe"}[instrument.kind]
        write = getattr(metric, record)
        return lambda value: write(value, tags)

    @staticmethod
    def _create(module: MetricsModule, instrument: Instrument) -> Any:
        keys = _tag_keys(instrument)
        if instrument.kind == "histogram":
            return module.Histogram(
                instrument.name, instrument.description, boundaries=list(instrument.buckets), tag_keys=keys
            )
        kind = module.Counter if instrument.kind == "counter" else module.Gauge
        name = instrument.name.removesuffix("_total")  # Ray adds the suffix
        return kind(name, instrument.description, tag_keys=keys)


def _tag_keys(instrument: Instrument) -> tuple[str, ...]:
    return (*instrument.labels, "replica")


@dataclass(frozen=True)
class RequestRecord:
    """A finished HTTP request.

    Attributes:
        request_id: id in the response header.
        method, route: labels from bounded sets.
        path: path sent by the client, below the mount point.
        status: status of the response; 499 if the client disconnected before the response started.
        error_type: type of the error, else empty.
        seconds: time from the headers of the request to the end of the response.
        disconnected: True if the client disconnected before the end of the response.
        model: requested or default model; empty if the request did not reach a model.
        measurements: further numbers recorded by the route, with their names.
    """

    request_id: str
    method: str
    route: str
    path: str
    status: int
    error_type: str
    seconds: float
    disconnected: bool = False
    model: str = ""
    measurements: tuple[tuple[str, float], ...] = ()


class Telemetry:
    """Metrics of one replica.

    Label values must come from bounded sets: routes, statuses and error types defined in the code, and the models of
    the configuration.

    Args:
        replica: name of the replica, used as a label of every series.
        cluster: the module `ray.util.metrics` in a Ray worker; None elsewhere.
    """

    def __init__(self, *, replica: str, cluster: MetricsModule | None = None) -> None:
        self.replica = ReplicaMetrics(replica)
        cluster_metrics = () if cluster is None else (ClusterMetrics(cluster, replica),)
        self._backends: tuple[MetricsBackend, ...] = (self.replica, *cluster_metrics)
        self._recorders: dict[tuple[str, tuple[str, ...]], tuple[Recorder, ...]] = {}
        self._in_progress, self._lock = 0, threading.Lock()

    def record_batch(self, report: BatchReport, model: str) -> None:
        """Record a finished forward pass."""
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
        """Record that a request has started."""
        with self._lock:
            self._in_progress += 1
        self._record("fill_mask_requests_in_progress", self._in_progress)

    def record_request(self, request: RequestRecord) -> None:
        """Record a finished request."""
        with self._lock:
            self._in_progress -= 1
        self._record("fill_mask_requests_in_progress", self._in_progress)
        method, route = request.method, request.route
        self._record("fill_mask_requests_total", 1, (method, route, str(request.status), request.model))
        self._record("fill_mask_request_seconds", request.seconds, (method, route))
        if request.error_type:
            self._record("fill_mask_failures_total", 1, (route, request.error_type))

    def record_model(self, name: str, *, revision: str, dtype: str, in_memory: bool = True) -> None:
        """Record that a model was loaded or unloaded."""
        self._record("fill_mask_model_info", int(in_memory), (name, revision, dtype))

    def _record(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        series = (name, labels)
        recorders = self._recorders.get(series)
        if recorders is None:
            instrument = INSTRUMENTS[name]
            assert len(labels) == len(instrument.labels), f"{name}: {labels}"
            recorders = self._recorders[series] = tuple(backend(instrument, labels) for backend in self._backends)
        for record in recorders:
            record(value)
