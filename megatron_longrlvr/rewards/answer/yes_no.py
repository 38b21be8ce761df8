"""Yes or no: the word with which the answer begins, or the only one of the two in it.

Read are yes/no, true/false and correct/incorrect, as words of their own: "not", "know" and
"yesterday" are neither.

Refused, that is left undecided: an answer with both words of which neither comes first, one with
neither, a hedge ("yes and no", "yes/no"), a "no" that counts what follows ("no doubt", "no one"),
and a reference that is not one of the words alone.
"""

from __future__ import annotations

import re

from megatron_longrlvr.rewards.answer.normalized import normalize
from megatron_longrlvr.rewards.answer.readable import readable
from megatron_longrlvr.rewards.answer.verification import (
    UNDECIDED,
    Verification,
    nothing_said,
    rule,
)

_MEANINGS = {
    **dict.fromkeys(("yes", "true", "correct"), True),
    **dict.fromkeys(("no", "false", "incorrect"), False),
}
_HEDGE = re.compile(
    r"^(?:yes|true|correct) (?:(?:and|or) |(?:no|false|incorrect)$)"
    r"|^(?:no|false|incorrect) (?:(?:and|or) |(?:yes|true|correct)$)"
)
# "No doubt he did" says no such thing; behind a mark or before who did it, "no" is an answer.
_COUNTING = re.compile(
    r"^\W*+(?:(?:the\s++)?+answer\s*+:\W*+)?+no\s++(?!(?:it|its|he|she|they|we|i|you|this|that|these"
    r"|those|there|the|a|an|because|since|as|not|if|when|in|on|at|by|for|according|based)\b)\w",
    re.IGNORECASE,
)
# "yes" and "no" are answers wherever they stand; "it is not true" shows that the others are not.
_ANYWHERE = frozenset({"yes", "no"})


def verify(answer: str, reference: str) -> Verification:
    """Compare what the answer says with the reference's word."""
    words, wanted = normalize(answer).split(), normalize(reference)
    if not words:
        return nothing_said(wanted)
    expected = _MEANINGS.get(wanted)
    if expected is None or _HEDGE.match(" ".join(words)) or _COUNTING.match(readable(answer)):
        return UNDECIDED
    if words[0] in _MEANINGS:
        return rule(is_right=_MEANINGS[words[0]] is expected)
    said = {_MEANINGS[word] for word in words if word in _ANYWHERE}
    return rule(is_right=said == {expected}) if len(said) == 1 else UNDECIDED
