"""Readers of rows and lines: tables, compressed streams, and records of unusable rows."""
