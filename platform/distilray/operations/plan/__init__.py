"""Capacity plan of a pipeline: estimated time, cost and disk space, and simulated scaling of the distillation."""
