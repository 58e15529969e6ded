"""Inference on texts with models of any format, independent of HTTP and Ray."""
