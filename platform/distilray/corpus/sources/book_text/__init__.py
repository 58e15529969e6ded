"""Files of books into running text: their encoding, what Project Gutenberg adds to them, and their layout."""
