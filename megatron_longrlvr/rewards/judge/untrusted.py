"""Answers that talk to the judge: found, reported, and made harmless.

An answer is written by a policy that is paid for the verdict, so in time it will hold whatever
moves the verdict. ``find_attacks`` names what looks like an attempt; ``neutralize`` rewrites the
answer so that nothing in it does. It stays readable: every line is set behind a bar, angle brackets
become single quotation marks of that shape, and what looks like an attempt is spelled out,
``v-e-r-d-i-c-t`` with middle dots for the hyphens. The sample is kept and judged on what it says.

Text is compared after removing characters that print nothing and folding letters of other
alphabets and widths that look Latin.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import groupby

_FLAGS = re.IGNORECASE | re.MULTILINE
_YES_OR_NO = r"(?:yes|no|true|false|correct|incorrect|right|wrong|equivalent|accepted)"
# Quotes, brackets and the like between two words; bounded, so that search stays linear.
_JOINT = r"[\W_]{0,12}"

ATTACKS: Mapping[str, re.Pattern[str]] = {
    "verdict": re.compile(
        rf"(?:verdict|judge?ment|evaluation|grade|rating|label|score|is_?correct){_JOINT}"
        rf"(?:(?:is|was|be|should be|must be|equals){_JOINT})?(?:{_YES_OR_NO}|[01](?:\.0)?)(?!\w)"
        rf"|[\[{{(]{{1,3}}\s{{0,4}}[\"']?(?:yes|no)[\"']?\s{{0,4}}[\]}})]{{1,3}}",
        _FLAGS,
    ),
    "instruction": re.compile(
        r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,60}"
        r"\b(?:instruct|rule|prompt|above|previous|prior|reference|guideline|criteria)"
        r"|\b(?:answer|reply|respond|output|return|print|write|say)\b"
        rf"(?:{_JOINT}(?:only|just|with|simply|exactly|the|word)\b){{0,4}}{_JOINT}(?:yes|no)\b"
        r"|\b(?:mark|grade|rate|judge|score|accept|treat|consider|evaluate)\b[^.\n]{0,40}"
        rf"\b(?:as|a)\b{_JOINT}(?:{_YES_OR_NO}|match)\b"
        r"|\b(?:this|the|my|above) (?:answer|response)\b[^.\n]{0,30}"
        r"\b(?:is|are|should be|must be)\b[^.\n]{0,20}"
        r"\b(?:correct|right|equivalent|accepted|same as the reference|identical)\b"
        r"|\byou (?:must|should|will|shall|are to)\b[^.\n]{0,40}"
        r"\b(?:answer|reply|respond|output|return|print|say|accept|agree|judge)\b"
        r"|\b(?:dear|note to(?: the)?|attention|hey) (?:judge|grader|evaluator|assistant)\b",
        _FLAGS,
    ),
    "delimiter": re.compile(
        r"^\W{0,12}(?:begin|end|start|stop)\W{1,4}(?:of\W)?(?:the\W)?"
        r"(?:answer|reference|question|document|material|prompt|instruction)s?\b"
        r"|</?\s{0,4}(?:answer|reference|question|verdict|think|useful_chunks)[^>\n]{0,40}>",
        _FLAGS,
    ),
    "role": re.compile(
        r"<\|[^|\n]{1,40}\|?>|\[/?inst\]|<</?sys>>|</?s>|<(?:start|end)_of_turn>"
        r"|^\W{0,8}(?:system|user|assistant|human|judge|developer)\W{0,4}:",
        _FLAGS,
    ),
}
"""Kinds of attempt by name; matched against folded text."""

# Letters of other alphabets that look like Latin ones.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u051d\u04bb\u0432"
    "\u043d\u0442\u043c\u043a\u03b1\u03b5\u03bf\u03c1\u03c5\u03bd\u03b9\u03ba\u03c4\u0131",
    "aeopcyxijsdqwhbhtmkaeopuvikti",
)
_LINE_ENDS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BRACKETS = str.maketrans({"<": "\u2039", ">": "\u203a"})
_DOT = "\u00b7"
# Of spelling out; a further round is only needed where one match hid another.
_MAX_ROUNDS = 8


def find_attacks(answer: str) -> tuple[str, ...]:
    """Kinds of attempt that an answer holds, in alphabetical order; empty for an honest one."""
    folded, _ = _fold(_visible(answer))
    return tuple(sorted(kind for kind, pattern in ATTACKS.items() if pattern.search(folded)))


def neutralize(answer: str) -> str:
    """Rewrite an answer so that :func:`find_attacks` finds nothing in it."""
    text = _visible(answer)
    for _ in range(_MAX_ROUNDS):
        suspicious = _suspicious(text)
        if not any(suspicious):
            break
        text = _spell_out(text, suspicious)
    else:
        text = _spell_out(text, [True] * len(text))
    return "\n".join(f"| {line}" for line in _LINE_ENDS.split(text.translate(_BRACKETS)))


def _visible(text: str) -> str:
    """Without control and format characters, private ones and halves of surrogate pairs."""
    if text.isascii() and text.isprintable():
        return text
    lines = _LINE_ENDS.sub("\n", text)
    return "".join(
        char for char in lines if char in "\n\t" or not unicodedata.category(char).startswith("C")
    )


def _fold(text: str) -> tuple[str, Sequence[int]]:
    """Text in small Latin letters where it looks like such, and the place each came from."""
    if text.isascii():
        return text.lower(), range(len(text))
    pieces: list[str] = []
    origins: list[int] = []
    for index, char in enumerate(text):
        plain = unicodedata.normalize("NFKD", char).casefold().translate(_LOOK_ALIKES)
        plain = "".join(piece for piece in plain if not unicodedata.combining(piece))
        pieces.append(plain)
        origins += [index] * len(plain)
    return "".join(pieces), origins


def _suspicious(text: str) -> list[bool]:
    """For every character, whether an attempt runs over it."""
    folded, origins = _fold(text)
    marked = [False] * len(text)
    for pattern in ATTACKS.values():
        for match in pattern.finditer(folded):
            for place in range(match.start(), match.end()):
                marked[origins[place]] = True
    return marked


def _spell_out(text: str, marked: Sequence[bool]) -> str:
    """Set the marked characters apart by dots."""
    pieces = []
    for is_marked, run in groupby(zip(text, marked, strict=True), key=lambda pair: pair[1]):
        characters = [char for char, _ in run]
        pieces.append(_DOT.join(characters) if is_marked else "".join(characters))
    return "".join(pieces)
