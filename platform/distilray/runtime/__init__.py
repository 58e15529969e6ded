"""What every job shares: the command, the Ray session, run folders, storage, progress, logs."""
