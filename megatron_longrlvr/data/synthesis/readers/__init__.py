"""Files of several kinds, read as text. What stands in them is untrusted and only ever text."""
