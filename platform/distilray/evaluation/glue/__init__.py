"""GLUE: the nine tasks and their files, fine-tuning on one of them, scores, and the submission."""
