"""Fails as a bug does."""

raise ValueError("the quantity is negative")
