"""Hyperparameter search over the GLUE tasks with Ray Tune."""
