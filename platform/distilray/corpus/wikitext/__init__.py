"""What wikitext shows a reader, piece by piece; `corpus/cleaning.py` puts the pieces together."""
