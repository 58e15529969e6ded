"""Station 1: dumps and books become documents of clean sentences."""
