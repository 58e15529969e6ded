"""Documents to masked examples, and these to shards in a global random order."""
