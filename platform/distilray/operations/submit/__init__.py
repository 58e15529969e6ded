"""Submission of jobs to a Ray cluster."""
