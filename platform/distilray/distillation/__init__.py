"""Teacher training and distillation: losses, the training step, and the loop that Ray Train runs on each worker."""
