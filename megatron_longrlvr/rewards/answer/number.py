r"""Numeric answer: the same quantity, whatever way it is written.

Read are signs, grouping commas, decimals, exponents (``1.2e3``, ``1.2 x 10^3``), fractions and
mixed numbers (``3/4``, ``1 3/4``, ``\frac{3}{4}``), percent (``5%`` = ``0.05``), number words
behind a number (``3 million``), units with conversion (``2 km`` = ``2000 m``) and ``\boxed{}``.
An answer may be a sentence with one number in it; behind an equals sign, the last one counts.

Whole numbers must be equal; otherwise two quantities agree within a relative tolerance of 1e-4,
which forgives a rounding to five figures and no other.

Refused, that is left undecided: number words alone ("three"), an answer with several different
numbers or with a negation, a number inside a name ("Apollo 11"), ranges, units of different
dimensions, a percent sign or convertible unit on one side only unless the quantities agree, powers
and other expressions, and numbers of more than 300 digits.

Reading expressions is left out on purpose: computer algebra on untrusted text needs a time limit,
and the one of math-verify is an alarm signal, which only a main thread may set.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.units import MULTIPLIERS, UNITS
from megatron_longrlvr.rewards.answer.verification import (
    RIGHT,
    UNDECIDED,
    WRONG,
    Verification,
    rule,
)

RELATIVE_TOLERANCE = Fraction(1, 10_000)

# Python refuses to read integers of several thousand digits; no answer needs as many as these.
_MAX_DIGITS = 300
_MAX_EXPONENT = 300

_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*+\{\s*+(-?\d++)\s*+\}\s*+\{\s*+(\d++)\s*+\}")
_LATEX_GROUP = re.compile(r"\\(?:boxed|text|mathrm|textbf|mathbf)\s*+\{([^{}]*+)\}")
_TIMES_TEN = re.compile(r"\s*+(?:x|\*|\u00d7|\\times|\\cdot)\s*+10\s*+\^\s*+\{?+([+-]?+\d++)\}?+")
_NUMBER = re.compile(
    r"(?<![\w.,/^])(?P<sign>[+-]?+)"
    r"(?:(?P<whole>[0-9]++)\s++(?=[0-9]++\s*+/))?+"
    r"(?:(?P<grouped>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9]))|(?P<plain>[0-9]++)|(?=\.[0-9]))"
    r"(?P<decimals>\.[0-9]++)?+"
    r"(?:[eE](?P<exponent>[+-]?+[0-9]++)(?!\w))?+"
    r"(?:\s*+/\s*+(?P<divisor>[0-9]++)(?![\d.]))?+"
    r"(?!\s*+\^)"
    r"(?P<percent>\s*+(?:\\?+%|per\s?+cent\b))?+"
    r"(?:[\s-]*+(?P<word>[A-Za-z]++))?+",
)
_NEGATION = re.compile(r"\b(?:not|never|no|neither|nor)\b|n't\b", re.IGNORECASE)
_REFERENCE_LEAD = re.compile(
    r"[\s~(]*+(?:(?:about|around|approximately|roughly)\s++)?+", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number as written, with what its unit says."""

    number: Fraction
    """Number words multiplied in, percent and unit not."""

    dimension: str | None
    """``percent``, the unit's dimension, or None without either."""

    factor: Fraction
    """To the base unit."""

    @property
    def base(self) -> Fraction:
        """In base units."""
        return self.number * self.factor


def verify(answer: str, reference: str) -> Verification:
    """Compare the one quantity of the answer with the reference's."""
    if not bare(answer):
        return WRONG
    expected = read_quantity(reference, is_reference=True)
    given = read_quantity(answer, is_reference=False)
    if expected is None or given is None:
        return UNDECIDED
    if given.dimension == expected.dimension:
        return rule(is_right=agrees(given.base, expected.base))
    if None not in {given.dimension, expected.dimension}:
        return UNDECIDED
    if "percent" in {given.dimension, expected.dimension}:
        is_right = agrees(given.base, expected.base)
    else:
        # The unit may have gone without saying; a different number may be in another unit.
        is_right = agrees(given.number, expected.number)
    return RIGHT if is_right else UNDECIDED


def agrees(given: Fraction, expected: Fraction) -> bool:
    """Whether two numbers are equal, or within the tolerance if either has a fraction."""
    if given.denominator == expected.denominator == 1:
        return given == expected
    return abs(given - expected) <= RELATIVE_TOLERANCE * abs(expected)


def read_quantity(text: str, *, is_reference: bool) -> Quantity | None:
    """The one quantity that a text states, or None.

    Args:
        text: An answer or a reference.
        is_reference: The text must start with its number; a name with a number in it is none.
    """
    plain = re.split(r"[=\u2248]", _plain(text))[-1]
    if _NEGATION.search(plain):
        return None
    matches = list(_NUMBER.finditer(plain))
    if is_reference and not (matches and _is_lead(plain[: matches[0].start()])):
        return None
    quantities = {_quantity(match) for match in matches}
    return quantities.pop() if len(quantities) == 1 else None


def _is_lead(text: str) -> bool:
    return _REFERENCE_LEAD.fullmatch(text) is not None


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKC", bare(text)).replace("\u2212", "-")
    plain = _TIMES_TEN.sub(r"e\1", plain).replace("*", " ")
    plain = _LATEX_FRACTION.sub(r" \1/\2 ", plain)
    plain = _LATEX_GROUP.sub(r" \1 ", plain)
    # A euro sign stands before or behind its number; a dollar sign may also open a formula.
    plain = re.sub(r"\u20ac\s*+([\d.,]++)", r"\1 euros", plain).replace("$", " ")
    return plain.replace("\\,", "").replace("{,}", ",").strip()


def _quantity(match: re.Match[str]) -> Quantity | None:
    number = _number(match)
    if number is None:
        return None
    word = (match["word"] or "").lower()
    multiplier = MULTIPLIERS.get(word)
    if multiplier is not None:
        number, word = number * multiplier, ""
    if match["percent"] or word in {"percent", "pct"}:
        return Quantity(number=number, dimension="percent", factor=Fraction(1, 100))
    dimension, factor = UNITS.get(word, (None, Fraction(1)))
    return Quantity(number=number, dimension=dimension, factor=factor)


def _number(match: re.Match[str]) -> Fraction | None:
    digits = (match["grouped"] or match["plain"] or "0").replace(",", "")
    exponent = match["exponent"] or "0"
    divisor = match["divisor"] or "1"
    if len(match[0]) > _MAX_DIGITS or len(exponent) > len(str(_MAX_EXPONENT)) + 1:
        return None
    if abs(int(exponent)) > _MAX_EXPONENT or int(divisor) == 0:
        return None
    value = Fraction(f"{digits}{match['decimals'] or ''}") * Fraction(10) ** int(exponent)
    value = value / int(divisor) + int(match["whole"] or 0)
    return -value if match["sign"] == "-" else value
