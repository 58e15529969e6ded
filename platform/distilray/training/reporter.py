"""Where the numbers of a training run go: JSON lines, experiment trackers, and Ray's metrics for Prometheus."""

from collections.abc import Mapping
from types import TracebackType

import ray
from ray.util.metrics import Gauge

from distilray.runtime import storage
from distilray.runtime.metrics import MetricsLog
from distilray.runtime.run_folder import METRICS_FILE
from distilray.runtime.tracking import Trackers

HELDOUT_FILE = "heldout.jsonl"
# Numbers of a row that Ray exports, as ray_distilray_<name>.
GAUGES: Mapping[str, str] = {
    "step": "finished optimiser steps",
    "loss": "training loss, mean over the steps of a row",
    "learning_rate": "highest of all parameters",
    "grad_norm": "norm of the gradient before clipping",
    "tokens_per_s": "real tokens per second of all workers",
    "data_wait": "share of the time that the workers wait for batches",
    "mfu": "model flops utilisation",
    "memory_gb": "peak memory of the first worker",
    "skipped_steps": "steps without an update since the last row",
}


class NullReporter:
    """What all workers but the first have: it says nothing.

    Attributes:
        is_failed: set when the run ends before its last step.
    """

    is_failed = False

    def __enter__(self) -> "NullReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def row(self, row: Mapping[str, float]) -> None:
        """Nothing."""

    def scores(self, row: Mapping[str, float]) -> None:
        """Nothing."""


class Reporter(NullReporter):
    """Writes rows; the first worker of a run has one. Use it as a context manager.

    Args:
        run_uri: folder of the run.
        start: finished steps; rows of later ones are dropped, as they will be written again.
        total: steps of the whole run.
    """

    def __init__(self, run_uri: str, *, start: int, total: int, trackers: Trackers) -> None:
        self._total = total
        kept = start or -1  # one that begins anew scores step 0 again
        self._rows = MetricsLog(storage.join(run_uri, METRICS_FILE), keep_to_step=kept)
        self._scores = MetricsLog(storage.join(run_uri, HELDOUT_FILE), keep_to_step=kept)
        self._trackers = trackers
        self._gauges: dict[str, Gauge] = {}
        if ray.is_initialized():
            tags = {"run": run_uri.rstrip("/").rpartition("/")[2]}
            for name, description in GAUGES.items():
                self._gauges[name] = Gauge(f"distilray_{name}", description=description, tag_keys=("run",))
                self._gauges[name].set_default_tags(tags)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._trackers.close(failed=self.is_failed or kind is not None)

    def row(self, row: Mapping[str, float]) -> None:
        """A row of training; `step` is the finished steps."""
        row = {**row, "total_steps": self._total}
        self._rows.append(row)
        self._track("train", row)
        for name, gauge in self._gauges.items():
            if name in row:
                gauge.set(row[name])

    def scores(self, row: Mapping[str, float]) -> None:
        """Held-out scores after `step` steps."""
        self._scores.append(row)
        self._track("heldout", row)

    def _track(self, group: str, row: Mapping[str, float]) -> None:
        left_out = ("step", "time", "total_steps")
        values = {f"{group}/{name}": value for name, value in row.items() if name not in left_out}
        self._trackers.log(int(row["step"]), values)
