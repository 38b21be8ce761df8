"""Reinforcement learning of long-context language models with verifiable context rewards."""

__version__ = "0.1.0"
