"""Who may use the cluster: the token of this machine, and what the dashboard answers without it."""
