"""Fine-tuning of a classifier on a task, on one worker or several; it goes on where it was interrupted."""
