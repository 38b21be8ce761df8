"""Unordered answer: the same words, each as often, in any order.

Words are those of the normalised text: "red, blue" = "Blue; red.", but "blue and red" has one word
more. Refused, that is left undecided: any word more, less or other. Order is never looked at, so
this verifier does not suit answers such as "Rome beat Carthage".
"""

from __future__ import annotations

from megatron_longrlvr.rewards.answer.normalized import normalize
from megatron_longrlvr.rewards.answer.verification import Verification, same_text


def verify(answer: str, reference: str) -> Verification:
    """Right if both texts hold the same multiset of normalised words."""
    return same_text(_sorted_words(answer), _sorted_words(reference))


def _sorted_words(text: str) -> str:
    return " ".join(sorted(normalize(text).split()))
