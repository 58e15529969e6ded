"""Fine-tuning of a classifier on a task: the task table, labelled rows, training and its results."""
