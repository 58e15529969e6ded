"""Fine-tuning of classifiers: the task table, labeled rows, training, and its results."""
