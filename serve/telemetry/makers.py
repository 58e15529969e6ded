"""Metrics from the table of instruments: of this process with prometheus_client, of the cluster with Ray's classes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from serve.telemetry.instruments import INSTRUMENTS, Instrument

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
