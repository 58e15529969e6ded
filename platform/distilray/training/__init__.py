"""Training loop, its hooks, and its workers."""
