"""What ended exchanges say: whether an answer is a right one, percentiles, counts, and a row for every second."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.serving_load.connection import Exchange

SAMPLES = 10
Row = tuple[int, float, float, float, str]
"""An exchange: phase, when it was to be sent, was sent, ended; and its outcome, a status or what failed."""
_CANDIDATE = {"score", "token", "token_str", "sequence"}
_ENVELOPE = {"error", "error_type", "request_id"}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of times in seconds, in milliseconds."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    last = len(ordered) - 1
    places = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[round(place * last)] * 1000, 3) for name, place in places.items()}


def fault(exchange: Exchange, top_k: int) -> str:
    """What is wrong with an answer of 200 or 429, as a few words; "" when nothing is."""
    try:
        body: Any = json.loads(exchange.body)
    except ValueError:
        return f"{exchange.status}: not JSON"
    if exchange.status == 200:
        if not isinstance(body, list) or len(body) != top_k or any(not each.keys() >= _CANDIDATE for each in body):
            return "200: other candidates than asked for"
        return ""
    if not isinstance(body, dict) or body.keys() != _ENVELOPE:
        return "429: no error envelope"
    wait = next((value for name, value in exchange.headers if name.lower() == b"retry-after"), b"")
    return "" if wait.isdigit() and int(wait) >= 1 else "429: no Retry-After of 1 s or more"


class Measures:
    """Collects exchanges.

    Args:
        top_k: candidates that a right answer holds.
    """

    def __init__(self, *, top_k: int) -> None:
        self.rows: list[Row] = []
        self.samples: list[dict[str, Any]] = []
        self.faults: Counter[str] = Counter()
        self._top_k = top_k

    def add(self, exchange: Exchange) -> None:
        """Judges an ended exchange."""
        outcome = exchange.failure or str(exchange.status)
        wrong = fault(exchange, self._top_k) if outcome in {"200", "429"} else ""
        if wrong:
            self.faults[wrong] += 1
        if (wrong or outcome not in {"200", "429"}) and len(self.samples) < SAMPLES:
            self.samples.append(_sample(exchange, wrong or outcome))
        outcome = "wrong" if wrong and outcome == "200" else outcome
        self.rows.append((exchange.phase, exchange.scheduled, exchange.sent, exchange.done, outcome))
        exchange.body, exchange.headers = b"", []

    def phase(self, number: int, start: float, end: float) -> dict[str, Any]:
        """One phase: what was to be sent in it, whenever it ended, and answers of 200 that ended in it per second."""
        own = [row for row in self.rows if row[0] == number]
        good = [row for row in own if row[4] == "200"]
        in_time = sum(start <= row[3] < end for row in self.rows if row[4] == "200")
        return {
            "seconds": round(end - start, 3),
            "sent": len(own),
            "outcomes": dict(Counter(row[4] for row in own)),
            "goodput": round(in_time / max(end - start, 1e-9), 2),
            "latency_ms": percentiles([row[3] - row[1] for row in good]),
            "rejected_ms": percentiles([row[3] - row[1] for row in own if row[4] == "429"]),
            "lag_ms": percentiles([row[2] - row[1] for row in own if row[2]]),
        }

    def series(self) -> list[dict[str, Any]]:
        """For every second in which something ended: answers of 200 with their latency, and all others."""
        seconds: dict[int, list[Row]] = {}
        for row in self.rows:
            seconds.setdefault(int(row[3]), []).append(row)
        return [_second(second, rows) for second, rows in sorted(seconds.items())]


def _second(second: int, rows: Sequence[Row]) -> dict[str, Any]:
    good = [row[3] - row[1] for row in rows if row[4] == "200"]
    found = percentiles(good)
    return {
        "second": second,
        "ok": len(good),
        "other": len(rows) - len(good),
        "p50_ms": found.get("p50"),
        "p99_ms": found.get("p99"),
    }


def _sample(exchange: Exchange, outcome: str) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "at_s": round(exchange.done, 3),
        "after_ms": round((exchange.done - exchange.scheduled) * 1000, 1),
        "headers": {name.decode("latin-1"): value.decode("latin-1") for name, value in exchange.headers},
        "body": exchange.body[:300].decode(errors="replace"),
    }
