"""The optional cache of a teacher: its last hidden states and most probable tokens, written once beside the shards."""
