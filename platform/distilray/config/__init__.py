"""Typed recipes: frozen pydantic models that reject unknown keys."""
