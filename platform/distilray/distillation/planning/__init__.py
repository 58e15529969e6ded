"""What a training run would do and cost, before it begins."""
