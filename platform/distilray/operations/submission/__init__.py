"""Submitting a job to a cluster: checked here first, known by a fixed id, followed to its true exit code."""
