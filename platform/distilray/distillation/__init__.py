"""Stations 4 and 5: the losses, the training step and the loop that Ray Train runs."""
