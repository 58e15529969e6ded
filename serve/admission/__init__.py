"""Which requests are let in, and which of them share a forward."""
