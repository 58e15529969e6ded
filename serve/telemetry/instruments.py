"""What is measured: one table, from which the metrics of a replica and those of the cluster are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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
