"""What a verifier says about an answer.

A verifier that has read both texts as what it knows (a number, a date, an option) may say right or
wrong. One that compares texts may say right, but texts that differ prove nothing: "NYC" is
"New York". It then says undecided, and somebody else, such as a judge, may decide.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Ruling(StrEnum):
    """Whether an answer agrees with a reference."""

    RIGHT = "right"
    WRONG = "wrong"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """A ruling, and what the answer earns where nobody decides further."""

    ruling: Ruling
    score: float
    """In [0, 1]; 1 for right, 0 for wrong, and whatever the rule pays in between if undecided."""


RIGHT = Verification(ruling=Ruling.RIGHT, score=1.0)
WRONG = Verification(ruling=Ruling.WRONG, score=0.0)
UNDECIDED = Verification(ruling=Ruling.UNDECIDED, score=0.0)


def rule(*, is_right: bool) -> Verification:
    """By a verifier that read both texts."""
    return RIGHT if is_right else WRONG


def nothing_said(expected: Collection[object]) -> Verification:
    """Of an answer that is empty in the form that is compared.

    Wrong, unless that form leaves nothing of the reference either, as of one that is a hyphen.
    """
    return WRONG if expected else UNDECIDED


def same_text(answer: str, reference: str) -> Verification:
    """By a verifier that compares texts.

    Args:
        answer: In the form that is compared.
        reference: In the same form.
    """
    if not answer:
        return nothing_said(reference)
    return RIGHT if answer == reference else UNDECIDED
