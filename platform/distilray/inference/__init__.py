"""Texts in, the most probable tokens out; knows neither HTTP nor Ray."""
