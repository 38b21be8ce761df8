r"""The notations of numbers that are rewritten before a number is read.

LaTeX (``\frac12``, ``1{,}234``), powers of ten, marks between groups (``1'234``), signs as words
("minus 5"), currency signs in front and degrees become the plain form: ``1/2``, ``1e3``, ``1,234``,
``-5``, ``5 euros``, ``5 celsius``.
"""

from __future__ import annotations

import re

from megatron_longrlvr.rewards.answer.readable import readable, undress
from megatron_longrlvr.rewards.answer.units import LETTERS, MULTIPLIERS

_LATEX_FRACTION = re.compile(
    r"(?P<whole>\d?)\\[dt]?frac\s*+(?:\{\s*+(?P<above>-?\d++)\s*+\}\s*+\{\s*+(?P<below>\d++)\s*+\}"
    r"|(?P<one>\d)(?P<other>\d))"
)
_TIMES_TEN = re.compile(
    r"\s*+(?:x|\*|\u00b7|\u00d7|\u22c5|\\times|\\cdot)\s*+10\s*+(?:\^|\*\*)\s*+\{?+([+-]?+\d++)\}?+"
)
_POWER_OF_TEN = re.compile(r"(?<![\d.,^/\w])10\s*+\^\s*+\{?+([+-]?+\d++)\}?+")
_GROUP_MARK = re.compile(r"(?<=\d)(?:['\u2019_]|\\,|\{,\})(?=\d{3}(?!\d))")
_SIGN_WORD = re.compile(r"\b(?:minus|negative)\s++(?=\.?\d)", re.IGNORECASE)
_LATEX_NEAR = re.compile(r"\\(?:approx|simeq|sim)\b")
_LATEX_SPACE = re.compile(r"\\(?:[,;:! ]|quad\b)")
_CURRENCIES = {"\u20ac": "euros", "\u00a3": "gbp", "\u00a5": "yen", "\u20b9": "rupees"}
_POWERS = "|".join([*MULTIPLIERS, *LETTERS, "m"])
_AMOUNT = rf"(-?[\d.,]++)((?:\s?+(?:{_POWERS})\b)*+)"
_CURRENCY_FIRST = re.compile(rf"([{''.join(_CURRENCIES)}])\s*+{_AMOUNT}")
# One dollar sign alone opens no formula.
_DOLLARS = re.compile(rf"(?:\bUS\s?+)?+(\$)\s*+{_AMOUNT}")
_DEGREES = re.compile(r"(?:\u00b0\s?+|\bdegrees?\s++)(c|f)(?:elsius|ahrenheit)?\b", re.IGNORECASE)
_SCALES = {"c": "celsius", "f": "fahrenheit"}


def spell_out(text: str) -> str:
    """Rewrite a text so that its numbers stand in plain notation."""
    plain = _POWER_OF_TEN.sub(r"1e\1", _TIMES_TEN.sub(r"e\1", readable(text))).replace("*", " ")
    if "\\" in plain or "{" in plain:
        plain = undress(_LATEX_FRACTION.sub(_quotient, _GROUP_MARK.sub(",", plain)))
        plain = _LATEX_SPACE.sub(" ", _LATEX_NEAR.sub("\u2248", plain)).replace("\\$", "$")
    plain = _SIGN_WORD.sub("-", _GROUP_MARK.sub(",", plain))
    plain = _DEGREES.sub(lambda match: f" {_SCALES[match[1].lower()]}", plain)
    if plain.count("$") == 1:
        plain = _DOLLARS.sub(_behind, plain)
    return _CURRENCY_FIRST.sub(_behind, plain).replace("$", " ").strip()


def _quotient(match: re.Match[str]) -> str:
    whole = f"{match['whole']} " if match["whole"] else ""
    return f"{whole}{match['above'] or match['one']}/{match['below'] or match['other']} "


def _behind(match: re.Match[str]) -> str:
    power = " mn" if match[3].strip() == "m" else match[3]
    return f"{match[2]}{power} {_CURRENCIES.get(match[1], 'dollars')} "
