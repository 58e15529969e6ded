"""distilray: distil a BERT teacher into a student with half its layers, and serve it, on Ray."""

__version__ = "0.1.0"
