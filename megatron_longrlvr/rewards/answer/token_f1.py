"""Token F1: the share of words that answer and reference have in common.

With c words in common, counted as often as in both, F1 = 2 c / (words of both texts). The rule of
SQuAD, on our normalised words; it pays partial credit, so a wrong name that shares a surname earns
something.

Refused, that is left undecided with F1 as the score: everything but the same multiset of words,
which is right, and an empty answer, which is wrong. Order is never looked at.

Paper: SQuAD, arXiv:1606.05250.
"""

from __future__ import annotations

from collections import Counter

from megatron_longrlvr.rewards.answer.normalized import normalize
from megatron_longrlvr.rewards.answer.verification import RIGHT, Ruling, Verification, nothing_said


def verify(answer: str, reference: str) -> Verification:
    """Score the overlap of words."""
    given, expected = Counter(normalize(answer).split()), Counter(normalize(reference).split())
    if not given:
        return nothing_said(expected)
    if given == expected:
        return RIGHT
    num_common = (given & expected).total()
    score = 2 * num_common / (given.total() + expected.total())
    return Verification(ruling=Ruling.UNDECIDED, score=score)
