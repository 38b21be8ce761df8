"""Yes or no: the word with which the answer begins, or the only one of the two that it asserts.

Read are yes/no with their spoken forms, true/false and correct/incorrect, as words of their own:
"not", "know" and "yesterday" are neither. Behind the beginning, a "yes" or "no" is asserted where
it makes a clause by itself or follows "is", "so" and the like: "the answer is no", "Indeed, yes".

Refused, that is left undecided: an answer that asserts both words and begins with neither, one
that asserts neither ("the answer is not yes", "if yes, ..."), one that takes its first word back
("Yes... actually no"), a hedge ("yes and no", "yes/no"), a "no" that counts what follows ("no
doubt", "No. 5"), and a reference that is not one of the words alone.
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
    **dict.fromkeys(("yes", "yeah", "yep", "true", "correct"), True),
    **dict.fromkeys(("no", "nope", "false", "incorrect"), False),
}
_HEDGE = re.compile(
    r"^(?:yes|true|correct) (?:(?:and|or) |(?:no|false|incorrect)$)"
    r"|^(?:no|false|incorrect) (?:(?:and|or) |(?:yes|true|correct)$)"
)
# "No doubt he did" says no such thing; behind a mark or before who did it, "no" is an answer.
_COUNTING = re.compile(
    r"^\W*+(?:(?:the\s++)?+answer\s*+:\W*+)?+no(?:\.\s*+\d"
    r"|\s++(?!(?:it|its|he|she|they|we|i|you|this|that|these|those|there|the|a|an|because|since|as"
    r"|not|if|when|in|on|at|by|for|according|based)\b)\w)",
    re.IGNORECASE,
)
# "It is not true" shows that the other words prove nothing behind the beginning.
_ASSERTED = re.compile(
    r"(?:[.,:;!?\n\u2014\"*(\-]|\b(?:answer|is|so|thus|then|therefore|hence|be|probably"
    r"|definitely|absolutely|certainly))[^\w\"]{0,4}(yes|no)(?=\s*+(?:$|[.,;:!?)*]))",
    re.IGNORECASE,
)
# "The correct answer is no" begins with no verdict.
_AS_ADJECTIVE = re.compile(
    r"^\W*+(?:(?:a|an|the)\s++(?:yes|no|true|false|correct|incorrect)\b"
    r"|(?:true|false|correct|incorrect)\s++(?:answer|option|choice|response|statement|or)\b)",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:actually|wait|correction|rather|sorry|scratch\s++that)\b\W*+"
    r"(?:\w++\W++){0,4}?(yes|no)\b",
    re.IGNORECASE,
)


def verify(answer: str, reference: str) -> Verification:
    """Compare what the answer says with the reference's word."""
    words, wanted = normalize(answer).split(), normalize(reference)
    if not words:
        return nothing_said(wanted)
    expected = _MEANINGS.get(wanted)
    if expected is None or _HEDGE.match(" ".join(words)) or _COUNTING.match(readable(answer)):
        return UNDECIDED
    plain = readable(answer)
    if words[0] in _MEANINGS and not _AS_ADJECTIVE.match(plain):
        meaning = _MEANINGS[words[0]]
        taken_back = {_MEANINGS[word.lower()] for word in _TAKEN_BACK.findall(plain)}
        return UNDECIDED if taken_back - {meaning} else rule(is_right=meaning is expected)
    said = {_MEANINGS[word.lower()] for word in _ASSERTED.findall(plain)}
    return rule(is_right=said == {expected}) if len(said) == 1 else UNDECIDED
