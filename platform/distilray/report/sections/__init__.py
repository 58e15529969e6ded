"""Sections of the report, each written from the runs of one or more jobs."""
