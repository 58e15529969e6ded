"""Models: where their folders come from, masked language modelling, the student made from a teacher, other formats."""
