"""Plan of a pipeline: hours, cost and disk on some machines, and the simulated scaling of its training."""
