"""Fill-mask evaluation, teacher beside student, on held-out shards or on texts with masks in files."""

from distilray.evaluation.fill_mask.summary import show_fill_mask_scores

__all__ = ["show_fill_mask_scores"]
