"""Fill-mask over HTTP, as a Ray Serve application."""
