"""Report of a pipeline as one HTML page, and a model card, both written from run folders."""
