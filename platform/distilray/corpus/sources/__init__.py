"""Corpus sources: readers of input files, which are split into independent ranges."""
