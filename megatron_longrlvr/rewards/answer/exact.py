"""Exact answer: the same characters, apart from white space and format tags around them.

Refused, that is left undecided: any other difference, be it case, a full stop or inner space.
"""

from __future__ import annotations

from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.verification import Verification, same_text


def verify(answer: str, reference: str) -> Verification:
    """Right if the two texts are equal; an empty answer is wrong."""
    return same_text(bare(answer), bare(reference))
