"""Corpus stage: turns dumps, books and user text into documents of clean sentences."""
