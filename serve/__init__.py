"""Stage 9: fill-mask over HTTP, as a Ray Serve application."""
