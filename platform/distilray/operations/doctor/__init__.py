"""Checks of this machine, a cluster, a recipe or a cluster file."""
