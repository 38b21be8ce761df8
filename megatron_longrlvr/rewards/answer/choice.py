r"""Choice of an option: the letter that the answer names, at an option's own boundaries.

A letter counts only as an option: never inside a word, a tag or a sentence ("A man", "vitamin C",
``<CHUNK_3>``). The answer may be

1. a letter alone, in whatever dress: ``B``, ``b``, ``(B)``, ``**B.**``, ``\boxed{B}``; a box counts
   before everything around it;
2. a sentence with a marker: ``the correct answer is (B)``, ``I choose option B``, ``B is correct``,
   ``it's B``; Chinese markers, and labels of other languages such as ``Respuesta: B``, are read
   too;
3. an option with its text or reason, at the start, on a line of its own or behind a word that
   leads to it: ``B. Paris``, ``B - Paris``, ``(B) Paris``, ``B, because``, ``it is B. Paris``;
4. a text whose only bracketed capital is ``(B)``, ``[B]`` or ``<B>``.

Refused, that is left undecided: two different letters at the first form that finds any, or joined
to one ("the answer is B or C"), initials of a name ("John D. Rockefeller"), an option that is
negated or rejected ("the answer is not B", "(B) is wrong", "rule out B"), the letter of something
else ("Section (B)"), the text of an option without its letter, and a reference that is no option
letter. An empty answer is wrong.
"""

from __future__ import annotations

import re

from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.readable import readable
from megatron_longrlvr.rewards.answer.verification import UNDECIDED, WRONG, Verification, rule

# Benchmarks number their options from A; ten are the most that MMLU-Pro uses.
_LETTER = "[A-J]"
_ANY_CASE = "[A-Ja-j]"

_BOX = re.compile(r"\\boxed\s*+\{((?:[^{}]|\{[^{}]*+\})*+)\}")
# Underscores that open or close emphasis.
_EMPHASIS = re.compile(r"[*`]|(?<!\w)_++|_++(?!\w)")
_LABEL = re.compile(
    r"^\W*+(?:(?:final|correct|best|my)\s++)*+"
    r"(?:answer|option|choice|respuesta|r\u00e9ponse|antwort|resposta|risposta"
    r"|\u043e\u0442\u0432\u0435\u0442|\u7b54\u6848|\u6b63\u7b54|\u89e3\u7b54|\ub2f5|\uc815\ub2f5)"
    r"\s*+[\"']?+\s*+(?:[:=\-]|->|\u2192|\u21d2)\s*+",
    re.IGNORECASE,
)
# Marks that make something else of a letter, a unit, a language, a grade or a question, are no mere
# dress.
_ALONE = re.compile(
    rf"^(?:(?![\u00b0%$\u20ac\u00a3])\W)*+({_ANY_CASE})(?![#+\-])(?:(?![\u00b0%?])\W)*+$"
)
_BRACKETED = re.compile(rf"[(<\[{{\u3010\u300a\u300c]\s?+({_LETTER})\s?+[)>\]}}\u3011\u300b\u300d]")
# The words and marks behind which an option with its text may start.
_LEAD = r"(?i:^|[:;,\n<(]|\b(?:is|are|be|as|that|and|or|both|either))\s*+"
_WITH_TEXT = re.compile(
    rf"{_LEAD}(?:[(\[]({_LETTER})[)\]]"
    rf"|({_LETTER})[.):](?=\s|[A-Z][a-z]{{2}}|[\u3000-\u9fff])"
    r"(?!\s[A-Z]\.\s[A-Z]))"  # initials
)
_FIRST = re.compile(
    rf"^\W*+(?:({_LETTER})(?:[^\S\n]*+\n(?!\W*+{_LETTER}[^\w\n]*+(?:\n|$))|\s++[-\u2014]\s"
    rf"|\s++[(\[](?!{_LETTER}[)\]])[^()\[\]\n]*+[)\]]\W*+$"
    rf"|,?+\s++(?i:because|since|for|which|so|not)\b)"
    rf"|\(?+([a-j])\)\s(?!.*\s\(?+[a-j]\)\s))",
    re.DOTALL,
)
# An option's text may name others: "D. Both A and B".
_BOTH = re.compile(
    rf"(?<=[).:]\s)(?i:both)\s++[(\[]?+{_LETTER}[)\]]?+\s++(?i:and)\s++[(\[]?+{_LETTER}(?!\w)"
)
_NEGATED = re.compile(
    r"(?i:\b(?:not|never|isn['\u2019]t|neither|nor|reject|exclude|except|eliminate|discard|dismiss"
    r"|rul(?:e|es|ed|ing)\s++out|(?:cannot|can['\u2019]t|couldn['\u2019]t)\s++be"
    r"|(?:wrong|incorrect|false)\s++(?:answer|option|choice|one)\s++(?:is|would\s++be))\s++"
    rf"(?:(?:the|option|choice|answer)\s++){{0,3}}+)(?:\({_LETTER}\)|{_LETTER}(?!\w))"
)
_REJECTED = re.compile(
    rf"(?:\({_LETTER}\)|\[{_LETTER}\]|(?<!\w){_LETTER}\)?+)"
    r"(?:\s*+[-:]\s*+(?i:no|not\s++(?:correct|true|supported)|incorrect|wrong|false)\b"
    r"|\s++(?:cannot|can['\u2019]t|could\s++not)\s++be\s++(?:right|correct|the)\b"
    r"|\s++(?:is|was|seems|appears|would\s++be)\s++(?:(?:clearly|also|simply|therefore)\s++)?+"
    r"(?:incorrect|wrong|false|not\s++(?:the\s++)?+(?:answer|best|correct|right|supported|true)))\b"
)
# A letter behind such a word names a part of the document or a kind of thing.
_PART = re.compile(
    r"(?i:\b(?:appendix|article|clause|exhibit|fig(?:ure|\.)?+|group|item|note|paragraph|part|point"
    rf"|section|see|table|type|vitamin)\s++)(?:\({_LETTER}\)|\[{_LETTER}\]|{_LETTER}(?!\w))"
)
_MARKER = (
    r"(?i:\b(?:answer|choice|option|letter|choose|select|pick|go\s++with|it(?:['\u2019]s|\s++is))"
    r"(?:\s++(?:is|would|must|should|be|option|choice|most|likely|probably|therefore|thus)){0,4}+"
    r"|(?:\u7b54\u6848|\u9009\u9879|\u9078\u9805|\u9009\u62e9|\u9078\u64c7|\u9009|\u9078|\u6b63\u89e3)"
    r"(?:\u5e94|\u8be5|\u662f|\u4e3a|\u306f)?+)"
)
# "A" and "I" are words too: before a lower-case word they name no option without brackets.
_WORD = r"(?![AI]\s++(?!(?:because|since|as|and|or|not|but|so|which|for)\b)[a-z])"
_MARKED = re.compile(
    rf"{_MARKER}\s*+[\"']?+(?:[:=]|->|\u2192)?+\s*+[\"'\u201c]?+(?:[(<\[{{]({_ANY_CASE})[)>\]}}]"
    rf"|{_WORD}({_LETTER})(?![A-Za-z0-9'+#-])|([a-j])(?=[\s\"'\u201d]*+(?:[.,;:!?)]|$)))"
)
_CORRECT = re.compile(
    rf"(?:^|[.;:,\n]|\b(?i:so|thus|hence|therefore|option|choice|answer|that|and|but))\s*+"
    rf"[(\[]?+({_LETTER})[)\]]?+\s++(?i:is|would\s++be|must\s++be)\s++"
    rf"(?i:(?:the|most|only|clearly)\s++)*+(?i:correct|right|best|answer)\b"
)
_JOINED = re.compile(
    rf"[)\]]?+\s*+(?:[,/&]|\b(?i:and|or)\b)\s*+(?i:(?:option|choice)\s++)?+[(\[]?+{_LETTER}(?![\w'])"
    r"(?!\)?+\s++(?:is|was|would|does|has|can|cannot)\b)"
)


def verify(answer: str, reference: str) -> Verification:
    """Compare the option that the answer names with the reference's."""
    if not bare(answer):
        return WRONG
    expected = read_option(reference)
    named = read_option(answer)
    if expected is None or named is None:
        return UNDECIDED
    return rule(is_right=named == expected)


def read_option(text: str) -> str | None:
    """The one option letter that a text names, in upper case; None where there is not one."""
    boxed = {_read(content) for content in _BOX.findall(text)} - {None}
    if boxed:
        return boxed.pop() if len(boxed) == 1 else None
    return _read(text)


def _read(text: str) -> str | None:
    plain = _LABEL.sub("", _EMPHASIS.sub("", readable(text)).strip(), count=1)
    alone = _ALONE.match(plain)
    if alone:
        return alone[1].upper()
    asserted = plain
    for form in (_REJECTED, _NEGATED, _BOTH, _PART):
        asserted = form.sub(" ", asserted)
    for forms in ((_MARKED, _CORRECT), (_WITH_TEXT, _FIRST), (_BRACKETED,)):
        matches = [match for form in forms for match in form.finditer(asserted)]
        if any(_JOINED.match(asserted, _letter(match)[1]) for match in matches):
            return None
        letters = {_letter(match)[0].upper() for match in matches}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None


def _letter(match: re.Match[str]) -> tuple[str, int]:
    """The letter of a match, and where it ends."""
    group = match.lastindex or 0
    return match[group], match.end(group)
