"""Station 9: fill-mask over HTTP, one Ray Serve application."""
