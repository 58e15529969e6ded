"""Station 8: hyperparameter search over the GLUE tasks with Ray Tune."""
