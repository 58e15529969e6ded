"""Foundations of every job: command line, run folders, Ray session, storage, progress and tracking."""
