"""Held-out measurement of a policy."""
