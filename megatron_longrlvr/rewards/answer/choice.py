r"""Choice of an option: the letter that the answer names, at an option's own boundaries.

A letter counts only as an option: never inside a word, a tag or a sentence ("A man", "vitamin C",
``<CHUNK_3>``). The answer may be

1. a letter alone: ``B``, ``b``, ``(B)``, ``**B.**``, ``\boxed{B}``;
2. a sentence with a marker: ``the correct answer is (B)``, ``I choose option B``;
3. an option with its text, at the start, on a line of its own or behind a word that leads to it:
   ``B. Paris``, ``(B) Paris``, ``Answer: B) Paris``, ``the capital is B. Paris``;
4. a text whose only bracketed capital is ``(B)``, ``[B]`` or ``<B>``.

Refused, that is left undecided: two different letters at the first form that finds any, initials
of a name ("John D. Rockefeller"), an option that is negated ("the answer is not B"), the text of an
option without its letter, and a reference that is no option letter. An empty answer is wrong.
"""

from __future__ import annotations

import re
import unicodedata

from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.verification import UNDECIDED, WRONG, Verification, rule

# Benchmarks number their options from A; ten are the most that MMLU-Pro uses.
_LETTER = "[A-J]"

_BOXED = re.compile(r"\\(?:boxed|text|mathrm|textbf|mathbf)\s*+\{([^{}]*+)\}")
_LABEL = re.compile(r"^\W*+(?:(?:final|correct|best|my)\s++)*+answer\s*+[:\-]\s*+", re.IGNORECASE)
_ALONE = re.compile(r"^\W*+([A-Ja-j])[\s).\],:;!?']*+$")
_BRACKETED = re.compile(rf"[(<\[]({_LETTER})[)>\]]")
# The words and marks behind which an option with its text may start.
_LEAD = r"(?i:^|[:;,\n<(]|\b(?:is|are|be|as|that|and|or|both|either))\s*+"
_WITH_TEXT = re.compile(rf"{_LEAD}(?:[(\[]({_LETTER})[)\]]|({_LETTER})[.):](?=\s))")
_NEGATED = re.compile(
    rf"(?i:\b(?:not|never|isn't|reject|exclude)\s++(?:(?:the|option|choice|answer)\s++){{0,3}}+)"
    rf"(?:\({_LETTER}\)|{_LETTER}(?!\w))"
)
# "A" and "I" are words too: before a lower-case word they name no option without brackets.
_MARKED = re.compile(
    r"(?i:\b(?:answer|choice|option|choose|select)(?:\s++(?:is|would\s++be|option|choice)){0,3}+)"
    rf"\s*+:?+\s*+(?:[(<\[]({_LETTER})[)>\]]|(?![AI]\s++[a-z])({_LETTER})(?![\w'+#-]))"
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
    plain = unicodedata.normalize("NFKC", bare(text)).replace("*", "").replace("`", "").strip()
    plain = _LABEL.sub("", _BOXED.sub(r" \1 ", plain), count=1)
    alone = _ALONE.match(plain)
    if alone:
        return alone[1].upper()
    asserted = _NEGATED.sub(" ", plain)
    for form in (_MARKED, _WITH_TEXT, _BRACKETED):
        letters = {match[match.lastindex or 0] for match in form.finditer(asserted)}
        if letters:
            return letters.pop() if len(letters) == 1 else None
    return None
