"""Date: the same day, month or year, whatever way it is written.

Read are ``1990-03-12`` (also with a time behind it), ``1990/3/12``, ``12 March 1990``,
``March 12th, 1990``, ``12-Mar-1990``, ``1990 March 12``, ``1990\u5e743\u670812\u65e5``,
``12/25/1990`` where only one order of day and month exists, ``March 1990``, ``1990-03`` and
``1990`` alone. An answer may be a sentence with one date in it.

Refused, that is left undecided: ``03/04/1990`` (day or month first?), years of two digits, a date
that does not exist, two different dates ("12 and 13 March 1990"), a negation, a bound or a part of
a date ("by 1990", "late 1990", "spring 1990"), years before Christ, periods, and dates of different
precision that do not contradict each other ("March 1990" and "12 March 1990"). Dates that differ in
anything both of them name are wrong.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.readable import readable
from megatron_longrlvr.rewards.answer.verification import UNDECIDED, WRONG, Verification, rule

_MONTHS = {
    name: number
    for number, names in enumerate(
        [
            *("january jan", "february feb", "march mar", "april apr", "may", "june jun"),
            *("july jul", "august aug", "september sept sep", "october oct", "november nov"),
            "december dec",
        ],
        start=1,
    )
    for name in names.split()
}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTHS, key=len, reverse=True))})\b\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>\d{4})"
_NUMERIC_MONTH, _NUMERIC_DAY = r"(?P<month>\d\d?)", r"(?P<day>\d\d?)"
_TIME = r"(?:T\d\d?(?::\d\d)*(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?"
# Scripts that put no space between words count as one.
_START, _END = r"(?<![a-zA-Z0-9_./-])", r"(?![a-zA-Z0-9_/-]|'s)"
_FORMS = tuple(
    re.compile(_START + form + _END, re.IGNORECASE)
    for form in (
        rf"{_YEAR}(?P<mark>[-/.]){_NUMERIC_MONTH}(?P=mark){_NUMERIC_DAY}{_TIME}",
        rf"{_YEAR}\s?\u5e74\s?{_NUMERIC_MONTH}\s?\u6708\s?{_NUMERIC_DAY}\s?\u65e5",
        rf"{_DAY}(?:\s+of)?[\s/-]+{_MONTH}[,/-]?\s*{_YEAR}",
        rf"{_MONTH}\s+(?:the\s+)?{_DAY},?\s+{_YEAR}",
        rf"{_YEAR},?\s+{_MONTH}\s+{_DAY}",
        rf"(?P<first>\d\d?)(?P<mark>[-/.])(?P<second>\d\d?)(?P=mark){_YEAR}",
        rf"{_YEAR}\s?\u5e74\s?{_NUMERIC_MONTH}\s?\u6708",
        rf"{_MONTH},?\s+(?:of\s+)?{_YEAR}",
        rf"{_YEAR}-(?P<month>0[1-9]|1[0-2])",
        rf"{_YEAR}\s?\u5e74",
        rf"{_YEAR}",
    )
)
_NEGATION = re.compile(
    r"\b(?:not|never|before|after|between|since|until|b\.?c\.?(?:e\.?)?)(?!\w)|n't\b"
    r"|\d\s++(?:is|was)\s++(?:wrong|incorrect|false)\b",
    re.IGNORECASE,
)
# What makes another date of the one beside it.
_PART_OR_BOUND = re.compile(
    r"\b(?:by|from|till|through|prior\s++to|(?:no|not)\s++(?:later|earlier)\s++than|early|mid|late"
    r"|(?:beginning|start|middle|end|half|quarter)\s++of|q[1-4]|spring|summer|autumn|fall|winter)"
    rf"[\s,-]++(?:the\s++|of\s++)?+(?:\d|{_MONTH})"
    r"|\d(?:st|nd|rd|th)?+\s++(?:and|or|to|&)\s++\d|\d\s++(?:onwards?+|or\s++(?:earlier|later))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CalendarDate:
    """A day, a month or a year."""

    year: int
    month: int | None = None
    day: int | None = None
    """None unless the month is known."""


def verify(answer: str, reference: str) -> Verification:
    """Compare the one date of the answer with the reference's."""
    if not bare(answer):
        return WRONG
    expected, given = read_date(reference), read_date(answer)
    if expected is None or given is None:
        return UNDECIDED
    pairs = (
        (given.year, expected.year),
        (given.month, expected.month),
        (given.day, expected.day),
    )
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return WRONG
    return rule(is_right=True) if given == expected else UNDECIDED


def read_date(text: str) -> CalendarDate | None:
    """The one date that a text names, or None."""
    rest = readable(text)
    if _NEGATION.search(rest) or _PART_OR_BOUND.search(rest):
        return None
    found: set[CalendarDate | None] = set()
    for form in _FORMS:
        found |= {_to_date(match.groupdict()) for match in form.finditer(rest)}
        rest = form.sub(" ", rest)
    return found.pop() if len(found) == 1 else None


def _to_date(parts: dict[str, str | None]) -> CalendarDate | None:
    month, day = _month(parts.get("month")), _whole(parts.get("day"))
    first, second = _whole(parts.get("first")), _whole(parts.get("second"))
    if first is not None and second is not None:
        if first <= 12 and second <= 12 and first != second:
            return None
        month, day = (second, first) if first > 12 else (first, second)
    year = _whole(parts["year"])
    assert year is not None, "every form names a year"
    try:
        datetime.date(year, month or 1, day or 1)
    except ValueError:
        return None
    return CalendarDate(year=year, month=month, day=day)


def _month(written: str | None) -> int | None:
    return None if written is None else _MONTHS.get(written.lower()) or _whole(written)


def _whole(digits: str | None) -> int | None:
    return None if digits is None else int(digits)
