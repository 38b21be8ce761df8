"""Yes or no: the word with which the answer begins, or the only one of the two that it asserts.

Read are yes/no with their spoken forms, true/false and correct/incorrect, as words of their own:
"not", "know" and "yesterday" are neither. Words of other languages are read where they stand alone.
Behind the beginning, a "yes" or "no" is asserted where it makes a clause by itself or follows "is",
"so" and the like: "the answer is no", "Indeed, yes".

Refused, that is left undecided: an answer that asserts both words and begins with neither, one
that asserts neither ("the answer is not yes", "if yes, ..."), one that takes its first word back
("Yes... actually no", "yes, but no"), a hedge ("yes and no", "yes/no"), a "no" that counts what
follows ("no doubt", "No. 5"), and a reference that is not one of the words alone.
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
# In a sentence, "si" and "non" mean other things too.
_ALONE = {
    **_MEANINGS,
    **dict.fromkeys(("oui", "s\u00ed", "s\u00ec", "sim", "ja", "\u0434\u0430"), True),
    **dict.fromkeys(("\u662f", "\u662f\u7684", "\u306f\u3044", "\uc608", "\ub124"), True),
    **dict.fromkeys(("non", "nein", "n\u00e3o", "\u043d\u0435\u0442"), False),
    **dict.fromkeys(("\u5426", "\u4e0d\u662f", "\u3044\u3044\u3048", "\uc544\ub2c8\uc694"), False),
}
_HEDGE = re.compile(
    r"^(?:yes|true|correct) (?:(?:and|or) |(?:no|false|incorrect)$)"
    r"|^(?:no|false|incorrect) (?:(?:and|or) |(?:yes|true|correct)$)"
    r"|^(?:yes|no) is (?:wrong|incorrect|false|not)\b"
)
# "No doubt he did" says no such thing; behind a mark or before who did it, "no" is an answer.
_COUNTING = re.compile(
    r"^\W*+(?:(?:the\s++)?+(?:(?:final|correct)\s++)?+answer(?:\s++is)?+[\s:]\W*+)?+no(?:\.\s*+\d"
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
    r"|(?:true|false|correct|incorrect)\s++(?:answer|option|choice|response|statement|or)\b"
    r"|(?:the\s++)?+answer\s++is\s++(?:in)?+correct\b)",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:actually|wait|correction|rather|sorry|scratch\s++that|on\s++second\s++thought)\b\W*+"
    r"(?:\w++\W++){0,4}?(yes|no)\b"
    r"|(?:\b(?:but|otherwise|else|maybe|perhaps|i\s++mean|answer(?:\s++is|\s*+:))|[.!?;]|\n)"
    r"[^\w\"]{0,4}(?:(?:also|rather),?\s++)?+(yes|no)(?=\s*+(?:$|[.,;!?)*]))",
    re.IGNORECASE,
)


def verify(answer: str, reference: str) -> Verification:
    """Compare what the answer says with the reference's word."""
    words, wanted = normalize(answer).split(), normalize(reference)
    if not words:
        return nothing_said(wanted)
    expected = _ALONE.get(wanted)
    if expected is None or _HEDGE.match(" ".join(words)) or _COUNTING.match(readable(answer)):
        return UNDECIDED
    plain = readable(answer)
    known = _ALONE if len(words) == 1 else _MEANINGS
    found = (match[1] or match[2] for match in _TAKEN_BACK.finditer(plain))
    taken_back = {_MEANINGS[word.lower()] for word in found}
    if words[0] in known and not _AS_ADJECTIVE.match(plain):
        meaning = known[words[0]]
        return UNDECIDED if taken_back - {meaning} else rule(is_right=meaning is expected)
    said = taken_back | {_MEANINGS[word.lower()] for word in _ASSERTED.findall(plain)}
    return rule(is_right=said == {expected}) if len(said) == 1 else UNDECIDED
