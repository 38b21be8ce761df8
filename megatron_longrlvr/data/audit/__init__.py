"""Audit of data files: what training would trip over, or learn wrongly from, before it starts."""
