"""Checkpoints between Hugging Face folders and torch_dist, one tensor at a time."""
