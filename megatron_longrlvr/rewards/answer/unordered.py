"""Unordered answer: the same words, each as often, in any order.

Words are those of the normalised text: "red, blue" = "Blue; red.", but "blue and red" has one word
more.
"""

from __future__ import annotations

from collections import Counter

from megatron_longrlvr.rewards.answer.normalized import normalize


def score(answer: str, reference: str) -> float:
    """Return 1.0 if both texts hold the same multiset of normalised words, else 0.0."""
    words = Counter(normalize(answer).split())
    return float(bool(words) and words == Counter(normalize(reference).split()))
