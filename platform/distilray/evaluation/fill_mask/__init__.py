"""Fill-mask evaluation of a student and its teacher, on held-out shards or on files of masked texts."""

from distilray.evaluation.fill_mask.summary import show_fill_mask_scores

__all__ = ["show_fill_mask_scores"]
