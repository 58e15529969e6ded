"""What training minimises: the losses, and one micro-step from a batch to its loss."""
