"""Stations 2 and 3: sentences become segment pairs, masked examples, Arrow shards and batches."""
