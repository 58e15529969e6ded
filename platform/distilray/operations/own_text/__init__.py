"""Settings for a pipeline on text of which nothing is known beforehand."""
