"""The claim of DistilBERT re-derived: the stages of the experiment, and its tables."""
