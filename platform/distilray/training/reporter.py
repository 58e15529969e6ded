"""Reporter for training metrics: JSON lines, experiment trackers, and Ray's metrics for Prometheus."""

from collections.abc import Mapping
from types import TracebackType

import ray
from ray.util.metrics import Gauge

from distilray.runtime import storage
from distilray.runtime.metrics import MetricsLog
from distilray.runtime.run_folder import METRICS_FILE
from distilray.runtime.tracking import Trackers

HELDOUT_FILE = "heldout.jsonl"
# Metrics that Ray exports as ray_distilray_<name>.
GAUGES: Mapping[str, str] = {
    "step": "completed optimizer steps",
    "loss": "training loss, mean over the steps of a row",
    "learning_rate": "highest learning rate of all parameters",
    "grad_norm": "gradient norm before clipping",
    "tokens_per_s": "real tokens per second of all workers",
    "data_wait": "share of time that workers wait for batches",
    "mfu": "model flops utilization",
    "memory_gb": "peak memory of the first worker",
    "skipped_steps": "steps without an update since the last row",
}


class NullReporter:
    """Reporter of all workers except the first one; it discards everything.

    Attributes:
        is_failed: set if the run stops before its last step.
    """

    is_failed = False

    def __enter__(self) -> "NullReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def log_metrics(self, row: Mapping[str, float]) -> None:
        """Discard a row."""

    def log_scores(self, row: Mapping[str, float]) -> None:
        """Discard a row."""


class Reporter(NullReporter):
    """Reporter of the first worker; a context manager.

    Args:
        run_uri: run folder.
        start: number of completed steps; rows of later steps are deleted, because these steps are repeated.
        total: number of steps of the run.
    """

    def __init__(self, run_uri: str, *, start: int, total: int, trackers: Trackers) -> None:
        self._total = total
        keep_to_step = start or -1  # a run that starts from scratch evaluates step 0 again
        self._rows = MetricsLog(storage.join(run_uri, METRICS_FILE), keep_to_step=keep_to_step)
        self._scores = MetricsLog(storage.join(run_uri, HELDOUT_FILE), keep_to_step=keep_to_step)
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

    def log_metrics(self, row: Mapping[str, float]) -> None:
        """Report a row of training metrics."""
        row = {**row, "total_steps": self._total}
        self._rows.append(row)
        self._track("train", row)
        for name, gauge in self._gauges.items():
            if name in row:
                gauge.set(row[name])

    def log_scores(self, row: Mapping[str, float]) -> None:
        """Report held-out scores after `step` steps."""
        self._scores.append(row)
        self._track("heldout", row)

    def _track(self, group: str, row: Mapping[str, float]) -> None:
        excluded = ("step", "time", "total_steps")
        values = {f"{group}/{name}": value for name, value in row.items() if name not in excluded}
        self._trackers.log(int(row["step"]), values)
