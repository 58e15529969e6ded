"""Inference on texts, with models of any format; knows neither HTTP nor Ray."""
