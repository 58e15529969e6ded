"""Inference tasks, one module per task."""
