r"""An answer as a reader sees it: without tags, dress and the many ways to encode a character.

In this order:

1. Tags of the response format become spaces (``bare``). A JSON object with one field that is
   named like an answer stands for that field's value.
2. Characters that nobody sees vanish: zero-width ones, soft hyphens, byte order marks.
3. Superscript digits become powers and vulgar fractions quotients, which NFKC would make other
   numbers of: "10\u2075" = "10^5", "1\u00bd" = "1 1/2". A fixed or thin space between groups of
   three digits becomes a comma.
4. Unicode NFKC; hyphens, the en dash and the minus sign become ``-``.
5. LaTeX that only dresses its content is taken off: ``\boxed{B}``, ``\text{km}``, ``\(x\)``, and
   dollar signs around a whole text. So are elements such as ``<b>`` that are opened and closed.
6. A long run of white space becomes one line end or space, so that what is searched for behind any
   white space is found in linear time.
"""

from __future__ import annotations

import json
import re
import unicodedata

from megatron_longrlvr.data.strict_json import without_repeats
from megatron_longrlvr.rewards.answer.bare import bare

_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-"
)
_POWER = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]++")
_FRACTIONS = re.compile("(\\d?)([\u00bc-\u00be\u2150-\u215e\u2189])")
_INVISIBLE = re.compile(
    "[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]++"
)
_GROUPING_SPACE = re.compile("(?<=\\d)[\u00a0\u2009\u202f](?=\\d{3}(?!\\d))")
_HYPHENS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-") | {"\u2044": "/"})

_OBJECT = re.compile(r"(?:```(?:json)?+)?+\s*+(\{.*\})\s*+(?:```)?+", re.DOTALL | re.IGNORECASE)
_ANSWER_KEYS = frozenset(
    {"answer", "final_answer", "final answer", "result", "response", "choice", "option"}
)

_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text|textrm|textbf|textit|mathrm|mathbf|mathit|mathsf|emph)\s*+"
    r"\{([^{}]*+)\}"
)
_MATH_DELIMITER = re.compile(r"\\[()\[\]]")
# Text inside text inside a box; more is no answer.
_MAX_NESTING = 4
_MARKUP = re.compile(
    r"<\s*+(?P<slash>/?+)\s*+(?P<name>b|i|u|em|strong|span|p|code|mark|center|option|choice|result"
    r"|final|response|output|solution)\s*+>",
    re.IGNORECASE,
)


_LONG_SPACE = re.compile(r"\s{8,}+")


def readable(text: str) -> str:
    """Bring a text into the form that verifiers read; see the module for the steps."""
    plain = _from_object(bare(text))
    if not plain.isascii():
        plain = _decode(plain)
    if "\\" in plain:
        plain = undress(plain)
    if "</" in plain:
        plain = _without_markup(plain)
    plain = plain.strip()
    if len(plain) > 2 and plain.startswith("$") and plain.endswith("$"):
        plain = plain.strip("$")
    return _LONG_SPACE.sub(lambda run: "\n" if "\n" in run[0] else " ", plain.strip())


def _from_object(text: str) -> str:
    """The answer that a JSON object states; the text itself where there is none, or several."""
    found = _OBJECT.fullmatch(text) if text.endswith(("}", "```")) else None
    if found is None:
        return text
    try:
        # Numbers stay as they are written.
        content = json.loads(
            found[1],
            object_pairs_hook=without_repeats,
            parse_float=str,
            parse_int=str,
            parse_constant=str,
        )
    except (ValueError, RecursionError):
        return text
    stated = [value for key, value in content.items() if key.strip().lower() in _ANSWER_KEYS]
    return stated[0] if len(stated) == 1 and isinstance(stated[0], str) else text


def _decode(text: str) -> str:
    visible = _INVISIBLE.sub("", text)
    powers = _POWER.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPTS), visible)
    quotients = _FRACTIONS.sub(_quotient, powers)
    grouped = _GROUPING_SPACE.sub(",", quotients)
    return unicodedata.normalize("NFKC", grouped).translate(_HYPHENS)


def _quotient(match: re.Match[str]) -> str:
    whole, fraction = match.groups()
    return f"{whole} " * bool(whole) + unicodedata.normalize("NFKC", fraction)


def undress(text: str) -> str:
    """Take LaTeX off that only dresses its content."""
    for _ in range(_MAX_NESTING):
        text, num_wrappers = _WRAPPER.subn(r" \1 ", text)
        if not num_wrappers:
            break
    return _MATH_DELIMITER.sub(" ", text)


def _without_markup(text: str) -> str:
    closed = {match["name"].lower() for match in _MARKUP.finditer(text) if match["slash"]}
    return _MARKUP.sub(lambda match: " " if match["name"].lower() in closed else match[0], text)
