r"""Choice of an option: the letter that the answer names, at an option's own boundaries.

A letter counts only as an option: never inside a word, a tag or a sentence ("A man", "vitamin C",
``<CHUNK_3>``). The answer may be

1. a letter alone, in whatever dress: ``B``, ``b``, ``(B)``, ``**B.**``, ``\boxed{B}``; a box counts
   before everything around it;
2. a sentence with a marker: ``the correct answer is (B)``, ``I choose option B``, ``B is correct``,
   ``it's B``; markers and labels of other languages such as ``Respuesta: B`` are read too;
3. an option with its text or reason, at the start, on a line of its own or behind a word that
   leads to it: ``B. Paris``, ``B - Paris``, ``(B) Paris``, ``B, because``, ``it is B. Paris``;
4. a text whose only bracketed capital is ``(B)``, ``[B]`` or ``<B>``;
5. a sentence that comes to one letter and names no other, without any negation or doubt: ``so B``,
   ``only B is supported``.

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
_FOREIGN = (
    r"(?:respuesta|r\u00e9ponse|antwort|resposta|risposta|jawaban|odpowied\u017a|cevap"
    r"|\u0111\u00e1p\s++\u00e1n|\u043e\u0442\u0432\u0435\u0442)"
    r"(?:\s++(?:correcta|correcte|corretta|correta))?+"
)
_LABEL = re.compile(
    r"^\W*+(?:(?:final|correct|right|best|chosen|selected|my"
    r"|\u043f\u0440\u0430\u0432\u0438\u043b\u044c\u043d\u044b\u0439)\s++)*+"
    r"(?:answer|ans\.?+|option|choice|selection|conclusion|result|solution|verdict|final|correct"
    rf"|{_FOREIGN}|\u7b54\u6848|\u6b63\u7b54|\u89e3\u7b54|\uc815?+\ub2f5"
    r"|\u0627\u0644\u0625\u062c\u0627\u0628\u0629|\u0909\u0924\u094d\u0924\u0930)"
    r"\s*+[\"']?+\s*+(?:[:=\-\u2014]|->|\u2192|\u21d2)\s*+",
    re.IGNORECASE,
)
# A letter that has the first line, or stands in quotes before a comma or right before a bracketed
# one.
_FIRST_OF_TWO = re.compile(rf"^\W*+({_LETTER})(?:[^\w\n]*+\n|\s*+[(\[]{_LETTER}[)\]]|[\"']\s*+,)")
_SECOND_THOUGHT = re.compile(
    rf"(?i:\b(?:actually|alternatively|rather|wait)),?\s++[(\[]?+(?![AI]\s++[a-z])({_LETTER})(?!\w)"
)
_IN_DOLLARS = re.compile(rf"\$\s*+(\(?+{_LETTER}\)?+)\s*+\$")
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
    r"|rather\s++than|instead\s++of|no\s++es|n['\u2019]est\s++pas|nicht|non\s++\u00e8"
    r"|n\u00e3o\s++\u00e9|\u043d\u0435"
    r"|rul(?:e|es|ed|ing)\s++out|(?:cannot|can['\u2019]t|couldn['\u2019]t)\s++be"
    r"|(?:wrong|incorrect|false)\s++(?:answer|option|choice|one)\s++(?:is|would\s++be))\s++"
    r"(?:(?:the|option|choice|answer|la|die)\s++){0,3}+"
    r"|(?:\u4e0d\u662f|\u4e0d\u9009|\u4e0d\u9078|\u4e0d\u4e3a|\u6392\u9664)\s*+)"
    rf"(?:\({_LETTER}\)|{_LETTER}(?!\w))"
)
_REJECTED = re.compile(
    rf"(?:\({_LETTER}\)|\[{_LETTER}\]|(?<!\w){_LETTER}\)?+)"
    r"(?:\s*+[-:]\s*+(?i:no|not\s++(?:correct|true|supported)|incorrect|wrong|false)\b"
    r"|\s?+(?:\u4e0d\u5bf9|\u4e0d\u5c0d|\u4e0d\u6b63|\u662f?+[\u9519\u932f]|\u3067\u306f\u306a)"
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
    r"(?i:\b(?:answer(?:\s++to\s++th(?:e|is|at)\s++question)?+|choice|option|letter|choose|select|pick"
    r"|go\s++with|it(?:['\u2019]s|\s++is)|(?:correct|right|true)\s++(?:one|statement))"
    r"(?:\s++(?:is|would|must|should|be|option|choice|most|likely|probably|therefore|thus|then"
    r"|clearly|definitely|certainly|indeed|simply)){0,4}+"
    rf"|\b{_FOREIGN}(?:\s++(?:es|est|ist|[\u00e8\u00e9]|l\u00e0|adalah|[-\u2014])(?!\w))?+"
    r"(?:\s++(?:la|die)\b)?+"
    r"|\u0627\u0644\u0625\u062c\u0627\u0628\u0629\s++\u0647\u064a"
    r"|(?:\u7b54\u3048|\u6b63\u89e3)\u306f|\uc815?+\ub2f5[\uc740\ub294]"
    r"|(?:\u7b54\u6848|\u9009\u9879|\u9078\u9805|\u9009\u62e9|\u9078\u64c7|\u9009|\u9078|\u6b63\u89e3)"
    r"(?:\u5e94|\u8be5|\u662f|\u4e3a|\u306f)?+)"
)
# "A" and "I" are words too: before a lower-case word they name no option without brackets.
_WORD = r"(?![AI]\s++(?!(?:because|since|as|and|or|not|but|so|which|for)\b)[a-z])"
_MARKED = re.compile(
    rf"{_MARKER}\s*+[\"']?+(?:[:=]|->|\u2192)?+\s*+[\"'\u201c$]?+(?:[(<\[{{]({_ANY_CASE})[)>\]}}]"
    rf"|{_WORD}({_LETTER})(?![A-Za-z0-9+#-]|'\w)|([a-j])(?=[\s\"'\u201d]*+(?:[.,;:!?)]|$)))"
)
_CORRECT = re.compile(
    r"(?:^|[.;:,\n]"
    r"|\b(?i:so|thus|hence|therefore|option|choice|statement|answer|that|and|but|or))\s*+"
    rf"[(\[]?+({_LETTER})[)\]]?+\s++(?i:is|would\s++be|must\s++be)\s++"
    rf"(?i:(?:the|most|only|clearly|also)\s++)*+(?i:correct|right|best|answer)\b"
)
_AND_OR = (
    r"(?:\b(?:and|or|und|oder|et|ou|y|o|e|\u0438|\u0438\u043b\u0438)\b"
    r"(?:\s++(?:also|maybe|possibly|perhaps))?+"
    r"|\u6216\u8005?+|[\u548c\u4e0e\u8207\u53ca\u3001\u3068]|[\u8fd8\u9084]\u662f|\u307e\u305f\u306f)"
)
_JOINED = re.compile(
    rf"[)\]]?+\s*+(?:[,/&]|(?:,\s*+)?+\(?+{_AND_OR})"
    rf"\s*+(?i:(?:option|choice)\s++)?+[(\[]?+({_LETTER})(?![\w'])"
    r"(?!\)?+\s++(?:is|was|would|does|has|can|cannot)\b)"
    rf"|[)\]]?+\s*+[-/]?+\s*+[(\[]({_LETTER})[)\]]"  # (B)(C)
    rf"|[.)]\s++({_LETTER})[.)]\s*+$"  # B. C.
)
_END = r"[)\]]?+(?=[^\w?]*+$|\.\s)"
_CONCLUDED = re.compile(
    r"(?i:\b(?:so|thus|hence|therefore|(?:it|this)\s++must\s++be|going\s++with|clearly|definitely"
    r"|certainly|likely|probably|(?:answer|exception|one|statement)\b[^.;:\n]{0,60}?\bis),?\s++(?:option\s++)?+)"
    rf"[(\[]?+({_LETTER}){_END}"
)
_SUPPORTED = re.compile(
    r"(?:^|[.;:,\n]|\b(?i:option|choice|statement|only))\s*+"
    rf"[(\[]?+({_LETTER})[)\]]?+\s++(?i:is\s++(?:supported|stated|confirmed|better|the\s++most\s++(?:accurate|likely)|the\s++only\s++"
    r"(?:one|option|choice|answer|statement))|(?:seems|appears|looks)\s++(?:to\s++be\s++)?+"
    r"(?:the\s++)?+(?:most\s++)?+(?:accurate|best|correct|likely|right)|matches|remains"
    r"|best\s++(?:captures|describes|fits|matches|summari[sz]es))\b"
)
_DOUBT = re.compile(
    r"n['\u2019]t\b|\b(?:not?|never|neither|nor|cannot|doubt\w*+|unlikely|unclear|wrong|incorrect|false"
    r"|if|whether|either|maybe|perhaps|possibly)\b|\?",
    re.IGNORECASE,
)
_ANY_LETTER = re.compile(rf"(?<![\w'])(?![AI]\s++[a-z])({_LETTER})(?![\w'])")


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
    whole = _IN_DOLLARS.sub(r"\1", _EMPHASIS.sub("", readable(text)).strip())
    plain = _LABEL.sub("", whole, count=1)
    alone = _ALONE.match(plain)
    if alone:
        return alone[1].upper()
    asserted = plain
    for form in (_REJECTED, _NEGATED, _BOTH, _PART):
        asserted = form.sub(" ", asserted)
    first = _FIRST_OF_TWO.match(plain)
    for forms in ((_MARKED, _CORRECT), (_WITH_TEXT, _FIRST), (_BRACKETED,)):
        matches = [match for form in forms for match in form.finditer(asserted)]
        if any(_is_joined(match, asserted) for match in matches):
            return None
        letters = {_letter(match)[0].upper() for match in matches}
        if letters:
            letters |= {first[1]} if first else set()
            letters |= set(_SECOND_THOUGHT.findall(asserted))
            return letters.pop() if len(letters) == 1 else None
    return _left_over(plain, asserted) or _concluded(asserted)


def _left_over(plain: str, asserted: str) -> str | None:
    """The letter that a text begins with, where the rest rejects others: "B, not C"."""
    alone = _ALONE.match(asserted)
    return alone[1] if alone and plain.lstrip("([ ").startswith(alone[1]) else None


def _concluded(asserted: str) -> str | None:
    found = {match[1] for form in (_CONCLUDED, _SUPPORTED) for match in form.finditer(asserted)}
    named = {match[1] for match in _ANY_LETTER.finditer(asserted)}
    is_certain = len(found) == 1 and named == found and _DOUBT.search(asserted) is None
    return found.pop() if is_certain else None


def _is_joined(match: re.Match[str], asserted: str) -> bool:
    """Whether another letter is named in one breath with the match's."""
    letter, end = _letter(match)
    other = _JOINED.match(asserted, end)
    return other is not None and other[other.lastindex or 0] != letter


def _letter(match: re.Match[str]) -> tuple[str, int]:
    """The letter of a match, and where it ends."""
    group = match.lastindex or 0
    return match[group], match.end(group)
