r"""Normalised answer: equal once form that carries no meaning is taken away.

In this order, on both texts:

1. Dress and encoding, see ``readable``: full-width digits, invisible characters, ``\boxed{}``.
   Then case folding: "PARIS" = "Paris".
2. One leading label: "Answer: Paris" = "**Final answer:** Paris" = "The answer is Paris", and the
   mark of a heading: "# Paris" = "Paris".
3. Grouping commas in numbers: "1,234" = "1234". A decimal point stays: "3.5" is not "35". So does
   the minus sign of a number: "-3" is not "3", while "2-3" reads as "2 3". No space stands before
   a percent sign.
4. Other full stops and apostrophes vanish: "U.S." = "us", "don't" = "dont", and so do letters
   that are written like an apostrophe.
5. All other punctuation (Unicode category P) and backquotes become spaces: "well-known" =
   "well known", "**Paris**" = "Paris". ``%`` and ``#`` stay, for "5%" is not "5" and "C#" is
   not "C"; so do symbols such as ``$``, ``+`` and ``=``, which are no punctuation.
6. The words a, an, the go: "the Eiffel Tower" = "Eiffel Tower". They stay where nothing else is
   left, so that option "A" remains an answer.
7. Runs of white space become one space.

Tags of the response format count as white space. A text of nothing but punctuation normalises to
the empty string, and an empty answer is wrong unless the reference is empty too. Refused, that is
left undecided: texts that differ after all this, though they may mean the same ("3.50" is not
"3.5", "three" is not "3", and "New York" is not "NYC"), and two texts of which nothing is left.
"""

from __future__ import annotations

import re
import unicodedata

from megatron_longrlvr.rewards.answer.readable import readable
from megatron_longrlvr.rewards.answer.verification import Verification, same_text

_LABEL = re.compile(
    r"^[\s*_#]*+(?:(?:the\s++)?+(?:(?:final|correct)\s++)?+answer(?:\s++is\b)?+"
    r"|respuesta|r\u00e9ponse|antwort|resposta|risposta|\u043e\u0442\u0432\u0435\u0442"
    r"|\u7b54\u6848|\u7b54)(?:[\s*_]*+:|(?<=\bis)(?=\s))[*_]*+"
)
_HEADING = re.compile(r"^\s*+#{1,6}\s++")
_PERCENT = re.compile(r"(?<=\d)\s++(?=%)")
_GROUPING_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# A full stop counts where a digit follows and no letter precedes: "3.5", ".5", but not "v.5".
_VANISHING = re.compile(r"\.(?!\d)|(?<=[^\W\d_])\.|['\u2018\u2019\u02bb\u02bc]")
_MINUS = re.compile(r"(?<![\w.)])-(?=\.?\d)")
_ARTICLES = frozenset({"a", "an", "the"})
_KEPT_PUNCTUATION = frozenset({"%", "#", "."})

# U+2212 is a symbol and a hyphen is punctuation, so a number's sign survives as the former.
_MINUS_SIGN = "\u2212"


def verify(answer: str, reference: str) -> Verification:
    """Right if the two texts normalise to the same words in the same order."""
    return same_text(normalize(answer), normalize(reference))


def normalize(text: str) -> str:
    """Bring a text into the form that is compared; see the module for the steps."""
    folded = _LABEL.sub("", readable(text).casefold(), count=1)
    ungrouped = _PERCENT.sub("", _GROUPING_COMMA.sub("", _HEADING.sub("", folded, count=1)))
    signed = _MINUS.sub(_MINUS_SIGN, ungrouped)
    words = _VANISHING.sub("", signed).translate(_SPACE_FOR_PUNCTUATION).split()
    content = [word for word in words if word not in _ARTICLES]
    return " ".join(content or words)


class _Translation(dict[int, str]):
    """A space for every punctuation mark; filled character by character as texts are seen."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        is_punctuation = unicodedata.category(char).startswith("P") or char == "`"
        self[code] = " " if is_punctuation and char not in _KEPT_PUNCTUATION else char
        return self[code]


_SPACE_FOR_PUNCTUATION = _Translation()
