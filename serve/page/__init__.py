"""Web pages of the service: a page to try the model, and the API documentation."""
