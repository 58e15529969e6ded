"""What the recipes of the jobs around the line may say."""
