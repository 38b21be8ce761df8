"""Metric records, their sinks, and the live display."""
