"""The sections of the report: each is made of the runs of some jobs."""
