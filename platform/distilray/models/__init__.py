"""Masked language models: sources, model families, student initialization, numeric precision."""
