"""Exact answer: the same characters, apart from white space around them."""

from __future__ import annotations


def score(answer: str, reference: str) -> float:
    """Return 1.0 if the two texts are equal, else 0.0; an empty answer earns nothing."""
    stripped = answer.strip()
    return float(stripped != "" and stripped == reference.strip())
