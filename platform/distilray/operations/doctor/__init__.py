"""What a set-up lacks before a job runs on it: one line for each check, with the fix."""
