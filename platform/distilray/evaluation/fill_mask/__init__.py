"""Fill-mask evaluation of a student and its teacher, on held-out shards or on files of masked texts."""
