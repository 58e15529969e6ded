"""GLUE as a benchmark: scores, their intervals, comparison with a teacher, and the submission."""
