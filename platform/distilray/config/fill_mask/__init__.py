"""What a recipe of `jobs.evaluate_fill_mask` says beside its models, and the field names of Azure for it."""
