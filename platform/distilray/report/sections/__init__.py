"""Sections of the report, each made from the runs of some jobs."""
