"""Saving a run and carrying on from it."""
