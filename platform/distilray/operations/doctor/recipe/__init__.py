"""Whether a recipe fits: the workers it asks for, what it reads, where it writes."""
