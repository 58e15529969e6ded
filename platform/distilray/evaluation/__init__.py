"""Station 7: what a model folder is worth, measured."""
