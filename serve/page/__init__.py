"""What a browser sees: the page to try the model, and the documentation of the API."""
