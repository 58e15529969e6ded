"""Tokenizer training, and encoding of documents as masked examples in Arrow shards and batches."""
