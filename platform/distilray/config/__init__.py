"""What a recipe may say: frozen models, where an unknown key is an error."""
