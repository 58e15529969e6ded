"""What a run tells while it goes on: progress, metrics, notices, experiment trackers."""
