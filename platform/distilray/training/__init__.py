"""Training: the loop, its hooks, and the workers it runs on."""
