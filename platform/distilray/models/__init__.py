"""The teacher, and the student that is made from it."""
