"""Wikitext to prose: `cleaning` combines the steps."""
