"""One verb per file: each job is a station of the line, run as `python -m jobs.<name>`."""
