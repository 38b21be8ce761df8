"""List: the same items, in any order and however they are separated.

Items are separated by commas, semicolons, bars, slashes between spaces, new lines, bullets,
numbering or the word "and", and compared as normalised texts; an item named twice counts once.

Refused, that is left undecided: an item more, less or other, items that hold a separator of their
own ("Trinidad and Tobago") unless both texts separate alike, and a list inside a sentence. Where
order matters, this verifier does not suit.
"""

from __future__ import annotations

import re

from megatron_longrlvr.rewards.answer.normalized import normalize
from megatron_longrlvr.rewards.answer.readable import readable
from megatron_longrlvr.rewards.answer.verification import (
    RIGHT,
    UNDECIDED,
    Verification,
    nothing_said,
)

# A comma within a number separates nothing.
_SEPARATOR = re.compile(r"[;\n|\u2022\u3001]|,(?!\d{3}(?!\d))|\s/\s|\s(?:and|&)\s", re.IGNORECASE)
_BULLET = re.compile(r"^\s*+(?:[-*+\u00b7\u2014]|\(?+(?:\d{1,2}|[a-z])[.)])\s++")
# Numbering within a line counts where the text begins with it.
_NUMBERED = re.compile(r"^\W*+1[.)]\s")
_NUMBERING = re.compile(r"(?:^|\s)\(?+\d{1,2}[.)]\s")


def verify(answer: str, reference: str) -> Verification:
    """Right if both texts list the same items."""
    # Equal texts first: where a reference is a bar, no item is left of it.
    if (plain := normalize(answer)) and plain == normalize(reference):
        return RIGHT
    given, expected = _items(answer), _items(reference)
    if not given:
        return nothing_said(expected)
    return RIGHT if given == expected else UNDECIDED


def _items(text: str) -> frozenset[str]:
    plain = readable(text)
    if _NUMBERED.match(plain):
        plain = _NUMBERING.sub("\n", plain)
    parts = (_BULLET.sub("", part, count=1) for part in _SEPARATOR.split(plain))
    return frozenset(item for part in parts if (item := normalize(part)))
