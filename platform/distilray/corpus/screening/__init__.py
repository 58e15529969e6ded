"""Which documents are kept: filters, duplicates, text of evaluation sets, and the quality of what is left."""
