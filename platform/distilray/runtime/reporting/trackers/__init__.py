"""Experiment trackers beside `metrics.jsonl`: TensorBoard files, MLflow, Weights & Biases."""

from distilray.runtime.reporting.trackers.feeds import Trackers, check_trackers, open_trackers

__all__ = ["Trackers", "check_trackers", "open_trackers"]
