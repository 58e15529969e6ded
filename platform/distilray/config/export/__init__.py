"""Recipes of the jobs about a model's other formats and about what each costs."""
