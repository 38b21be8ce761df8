"""Soft containment: one of the two texts holds the other, as whole normalised words.

Credits an answer that says more than the reference ("in Paris, France" for "Paris") and one that
says less ("Washington" for "George Washington"). Equal texts are right; containment alone is
undecided with the score 1, since "not Paris" holds "Paris" too.

Refused, that is undecided with the score 0: a match inside a word ("art" in "party"), an answer
of function words or of a single letter or digit within a longer reference ("of", "1"), and texts
around a reference that is a bare yes or no, which occur in answers of either meaning. An empty
answer is wrong.
"""

from __future__ import annotations

from megatron_longrlvr.rewards.answer.normalized import normalize
from megatron_longrlvr.rewards.answer.verification import (
    RIGHT,
    UNDECIDED,
    Ruling,
    Verification,
    nothing_said,
)

_HELD = Verification(ruling=Ruling.UNDECIDED, score=1.0)
_YES_NO = frozenset({"yes", "no"})
_FUNCTION_WORDS = frozenset(
    {"and", "as", "at", "but", "by", "for", "from", "he", "her", "his", "if", "in", "is", "it"}
    | {"its", "no", "not", "of", "on", "or", "she", "so", "that", "their", "they", "this", "to"}
    | {"was", "were", "with", "yes"}
)


def verify(answer: str, reference: str) -> Verification:
    """Score containment either way."""
    given, expected = normalize(answer), normalize(reference)
    if not given:
        return nothing_said(expected)
    if given == expected:
        return RIGHT
    if not expected:
        return UNDECIDED
    if expected in _YES_NO:
        return _HELD if given.split()[0] == expected else UNDECIDED
    if _holds(given, expected):
        return _HELD
    return _HELD if _says_something(given) and _holds(expected, given) else UNDECIDED


def _holds(text: str, part: str) -> bool:
    return f" {part} " in f" {text} "


def _says_something(given: str) -> bool:
    return any(len(word) > 1 and word not in _FUNCTION_WORDS for word in given.split())
