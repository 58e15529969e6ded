"""Where documents come from: files of a kind, split into ranges that are read independently of each other."""
