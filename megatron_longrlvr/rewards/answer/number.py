r"""Numeric answer: the same quantity, whatever way it is written.

Read are signs, grouping commas, decimals, exponents (``1.2e3``, ``1.2 x 10^3``), fractions and
mixed numbers (``3/4``, ``1 3/4``, ``\frac{3}{4}``), percent (``5%`` = ``0.05``), number words
behind a number (``3 million``), units with conversion (``2 km`` = ``2000 m``, ``5 MW`` = ``5000
kW``), dollars, powers of ten alone (``10^6``) and ``\boxed{}``.
An answer may be a sentence with one number in it; behind an equals sign, the last one counts.

Notations with another reading too can be right, never wrong: a decimal comma (``1,5``), spaces or
full stops between groups (``1 234``, ``1.234.567``), letters for powers of ten (``5k``), a mark
behind the number (``5!``), a rating (``4.5/5``), and a decimal that rounds a quotient (``0.67`` for
``2/3``). One full stop is a decimal point; ``1.234`` for ``1234`` is left undecided.

Whole numbers must be equal; otherwise two quantities agree within 1e-4 of the larger, which
forgives a rounding to five figures and no other.

Refused, that is left undecided: number words alone ("three"), an answer with several different
numbers or with a negation, a number inside a name ("Apollo 11"), ranges, decades ("1990s"), units
of different dimensions, compound units unless they are spelled alike ("km/h"), a percent sign or
convertible unit on one side only unless the quantities agree, bounds and multiples of a number
("at least 42", "42+", "half of 42"), values of several variables, powers, roots and other
expressions, and numbers of more than 300 digits.

Reading expressions is left out on purpose: computer algebra on untrusted text needs a time limit,
and the one of math-verify is an alarm signal, which only a main thread may set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from megatron_longrlvr.rewards.answer.bare import bare
from megatron_longrlvr.rewards.answer.number_notation import spell_out
from megatron_longrlvr.rewards.answer.units import LETTERS, MULTIPLIERS, SYMBOLS, UNITS
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
_YEAR_DIGITS = 4

# Letters, but of scripts that put no space between a word and a number.
_LETTER_BEFORE = r"(?<![^\W\u2e80-\u9fff\uac00-\ud7af])"
_MULTIPLIER = f"(?:{'|'.join(MULTIPLIERS)})"
_NUMBER = re.compile(
    rf"{_LETTER_BEFORE}(?<![.,/^\u221a])(?<!\^-)(?P<sign>[+-]?+)"
    r"(?:(?P<whole>[0-9]++)\s++(?=[0-9]++\s*+/))?+"
    r"(?:(?P<grouped>[0-9]{1,3}(?:,[0-9]{3})++(?![0-9]|,[0-9]))"
    r"|(?P<foreign>[0-9]{1,3}(?:\.[0-9]{3})++,[0-9]++(?![0-9]|[,.][0-9])"  # 1.234,5
    r"|[0-9]{1,3}(?:\.[0-9]{3}){2,}+(?![0-9]|[,.][0-9])"  # 1.234.567
    r"|[0-9]{1,3}(?:\s[0-9]{3}){1,6}+(?:[.,][0-9]++)?+(?![0-9,/])"  # 1 234,5
    r"|[0-9]{1,2}(?:,[0-9]{2}(?=,))++,[0-9]{3}(?![0-9]|,[0-9])"  # 12,34,567
    r"|[0-9]++,[0-9]++(?![0-9]|[,.][0-9]))"  # 1,5
    r"|(?P<plain>[0-9]++)(?!,[0-9]|\.[0-9]++\.[0-9])|(?=\.[0-9]))"
    r"(?P<decimals>\.[0-9]++)?+"
    r"(?:[eE](?P<exponent>[+-]?+[0-9]++)(?!\w))?+"
    r"(?:\s*+/\s*+(?P<divisor>[0-9]++)(?![\d.]))?+"
    r"(?!\s*+\^)"
    r"(?P<percent>\s*+(?:\\?+%|per\s?+cent\b))?+"
    r"(?:(?-i:(?P<letter>[kKMB]|\s?+[bmt]n))(?![A-Za-z0-9])"
    rf"|(?:[\s-]*+(?P<times>{_MULTIPLIER}(?:[\s-]*+{_MULTIPLIER})*+)(?![A-Za-z]))?+"
    r"(?:(?P<gap>[\s-]*+)(?P<word>[A-Za-z]++)"
    r"(?P<compound>\^-?+[0-9]|\s?+/\s?+[A-Za-z]++|\s++per\s++[A-Za-z]++)?+)?+)",
    re.IGNORECASE,
)
_MIXED_WITH_LETTERS = re.compile(r"[0-9](?![eE][+-]?+[0-9])[A-Za-z]++[0-9]")
_LATEX_COMMAND = re.compile(r"\\[A-Za-z]")
_NEGATION = re.compile(r"\b(?:not|never|no(?!\.\s?\d)|neither|nor)\b|n't\b", re.IGNORECASE)
_BOUND_OR_MULTIPLE = re.compile(
    r"(?:\b(?:(?:more|less|fewer|greater|higher|lower|larger|smaller|later|earlier)\s++than"
    r"|at\s++(?:least|most)|up\s++to|over|under|above|below|before|prior\s++to|nearly|almost"
    r"|(?:maximum|minimum)\s++of|twice|double|triple|(?:half|thirds?|quarters?)\s++of"
    r"|(?:anything|everything|all)\s++(?:but|except)"
    # The same, or a negation, in other languages.
    r"|nicht|mindestens|h\u00f6chstens|(?:mehr|weniger)\s++als|pas|(?:plus|moins)\s++de"
    r"|au\s++(?:moins|plus)|no\s++es|(?:m\u00e1s|menos)\s++de|al\s++menos|non"
    r"|\u043d\u0435|(?:\u043d\u0435\s++)?+(?:\u0431\u043e\u043b\u0435\u0435|\u043c\u0435\u043d\u0435\u0435))"
    r"|\u975e|\u4e0d\u662f|\u8d85\u8fc7|\u8d85\u904e|\u81f3\u5c11|\u6700\u591a|\u4e0d\u5230"
    r"|[<>\u2264\u2265]=?+)\s*+(?=[-.0-9])"
    r"|[0-9]\s?\+(?![\d/])|[0-9]-?ish\b"
    r"|[0-9]\b[^.,;\n]{0,20}\b(?:at\s++(?:least|most)|or\s++(?:more|less|fewer)"
    r"|(?:is|was)\s++(?:wrong|incorrect|false))\b"
    r"|[0-9]\s?(?:\u4ee5\u4e0a|\u4ee5\u4e0b|\u3067\u306f\u306a|\uc774\uc0c1|\uc774\ud558)",
    re.IGNORECASE,
)
_SEVERAL_VARIABLES = re.compile(r"=[^=]*[,;\n]\s*+(?:and\s++)?+\w++\s*+=")
# "5!" may be an exclamation, and between bars may stand a table's cell.
_OTHER_READING = re.compile(r"[0-9]!|\|\s*+-[0-9.,]++\s*+\|")
_REFERENCE_LEAD = re.compile(
    r"[\s~(\[#]*+(?:(?:about|around|approximately|roughly)\s++)?+", re.IGNORECASE
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

    is_certain: bool = True
    """False for a notation that has another reading too."""

    num_decimals: int | None = None
    """Digits behind the decimal point; None of a quotient."""

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
        is_right = agrees(given.base, expected.base)
        is_certain = given.is_certain and expected.is_certain
        is_certain = is_certain and not _is_rounding(given, expected)
        is_certain = is_certain and not _is_grouping(given, expected)
        return rule(is_right=is_right) if is_right or is_certain else UNDECIDED
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
    return abs(given - expected) <= RELATIVE_TOLERANCE * max(abs(given), abs(expected))


def _is_rounding(one: Quantity, other: Quantity) -> bool:
    """Whether one is a quotient and the other its value to two decimals or more."""
    if one.num_decimals is not None:
        one, other = other, one
    if one.num_decimals is not None or other.num_decimals is None or other.num_decimals < 2:
        return False
    return one.factor == other.factor and round(one.number, other.num_decimals) == other.number


def _is_grouping(one: Quantity, other: Quantity) -> bool:
    """Whether the numbers are equal if the full stop of one stands between groups of digits."""
    return any(
        a.num_decimals == 3 and a.factor == b.factor and 1000 * a.number == b.number
        for a, b in ((one, other), (other, one))
    )


def read_quantity(text: str, *, is_reference: bool) -> Quantity | None:
    """The one quantity that a text states, or None.

    Args:
        text: An answer or a reference.
        is_reference: The text must start with its number; a name with a number in it is none.
    """
    whole = spell_out(text)
    plain = re.split(r"(?<![<>])=|\u2248", whole)[-1]
    if _SEVERAL_VARIABLES.search(whole) or _BOUND_OR_MULTIPLE.search(plain):
        return None
    if _NEGATION.search(plain) or _MIXED_WITH_LETTERS.search(plain):
        return None
    # What LaTeX does with a number, such as taking its root, is not computed.
    if _LATEX_COMMAND.search(plain):
        return None
    found: Quantity | None = None
    seen: set[str] = set()
    for match in _NUMBER.finditer(plain):
        if found is None and is_reference and not _is_lead(plain[: match.start()]):
            return None
        if match[0] in seen:
            continue
        seen.add(match[0])
        quantity = _quantity(match)
        if quantity is None or found not in {None, quantity}:
            return None
        found = quantity
    return found


def _is_lead(text: str) -> bool:
    return _REFERENCE_LEAD.fullmatch(text) is not None


def _quantity(match: re.Match[str]) -> Quantity | None:
    number = _number(match)
    word = (match["word"] or "").lower()
    is_decade = word == "s" and not match["gap"] and len(match["plain"] or "") == _YEAR_DIGITS
    if number is None or is_decade:
        return None
    is_rating = match["divisor"] is not None and match["decimals"] is not None
    is_certain = not (match["foreign"] or match["letter"] or is_rating)
    if _OTHER_READING.search(match.string):
        is_certain = False
    if match["letter"] is not None:
        number *= LETTERS[match["letter"].strip()]
    elif match["times"] is not None:
        for multiplier in re.findall(_MULTIPLIER, match["times"].lower()):
            number *= MULTIPLIERS[multiplier]
    dimension, factor = UNITS.get(word, (None, Fraction(1)))
    dimension, factor = SYMBOLS.get(match["word"] or "", (dimension, factor))
    if match["percent"] or word in {"percent", "pct"}:
        dimension, factor = "percent", Fraction(1, 100)
    elif word and match["compound"]:
        dimension, factor = "".join((word + match["compound"].lower()).split()), Fraction(1)
    return Quantity(
        number=number,
        dimension=dimension,
        factor=factor,
        is_certain=is_certain,
        num_decimals=None if match["divisor"] else len((match["decimals"] or ".")[1:]),
    )


def _number(match: re.Match[str]) -> Fraction | None:
    written = match["grouped"] or match["plain"] or "0"
    digits = written.replace(",", "") + (match["decimals"] or "")
    exponent = match["exponent"] or "0"
    divisor = match["divisor"] or "1"
    if len(match[0]) > _MAX_DIGITS or len(exponent) > len(str(_MAX_EXPONENT)) + 1:
        return None
    if abs(int(exponent)) > _MAX_EXPONENT or int(divisor) == 0:
        return None
    if match["foreign"] is not None:
        digits = _read_foreign(match["foreign"])
    value = Fraction(digits) * Fraction(10) ** int(exponent)
    value = value / int(divisor) + int(match["whole"] or 0)
    return -value if match["sign"] == "-" else value


def _read_foreign(written: str) -> str:
    """Digits with a decimal point, of a number in another than the English notation."""
    marks = [char for char in written if not char.isdigit()]
    # A mark that repeats groups; a last one of its own kind, or a comma alone, is decimal.
    is_decimal = marks.count(marks[-1]) == 1 and (len(marks) > 1 or marks == [","])
    whole, mark, decimals = written.rpartition(marks[-1]) if is_decimal else (written, "", "")
    kept = "".join(char for char in whole if char.isdigit())
    return f"{kept}.{decimals}" if mark else kept
