"""The report of a line and the model card: from run folders to one HTML page and one README."""
