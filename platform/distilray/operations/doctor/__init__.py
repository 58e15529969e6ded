"""Checks of a set-up: this machine, a cluster, a recipe or a cluster file."""
