"""Files of rows and lines: tables, compressed streams, and the rows that cannot be used."""
