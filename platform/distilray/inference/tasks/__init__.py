"""Tasks at inference, one module each."""
