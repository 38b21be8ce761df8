"""Requests to servers of ours: judges and rollout engines."""
