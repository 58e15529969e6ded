"""What a training run tells about itself, and what watches over it."""
