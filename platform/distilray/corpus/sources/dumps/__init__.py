"""The pages of a MediaWiki dump, from any range of its file."""
