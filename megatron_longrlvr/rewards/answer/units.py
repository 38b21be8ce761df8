"""Units and number words that stand behind a number, and what they are worth.

Only factors that hold always: a month has no fixed number of days, and currencies have no rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def _spellings(
    factor_by_names: Mapping[str, str], dimension: str
) -> dict[str, tuple[str, Fraction]]:
    return {
        name: (dimension, Fraction(factor))
        for names, factor in factor_by_names.items()
        for name in names.split("|")
    }


UNITS: Mapping[str, tuple[str, Fraction]] = {
    **_spellings(
        {
            "mm|millimeter|millimeters|millimetre|millimetres": "1/1000",
            "cm|centimeter|centimeters|centimetre|centimetres": "1/100",
            "m|meter|meters|metre|metres": "1",
            "km|kms|kilometer|kilometers|kilometre|kilometres": "1000",
            "in|inch|inches": "0.0254",
            "ft|foot|feet": "0.3048",
            "yd|yard|yards": "0.9144",
            "mi|mile|miles": "1609.344",
        },
        "length",
    ),
    **_spellings(
        {
            "mg|milligram|milligrams": "1/1000",
            "g|gram|grams": "1",
            "kg|kilogram|kilograms": "1000",
            "ton|tons|tonne|tonnes": "1000000",
            "oz|ounce|ounces": "28.349523125",
            "lb|lbs|pound|pounds": "453.59237",
        },
        "mass",
    ),
    **_spellings(
        {
            "ms|millisecond|milliseconds": "1/1000",
            "s|sec|secs|second|seconds": "1",
            "min|mins|minute|minutes": "60",
            "h|hr|hrs|hour|hours": "3600",
            "day|days": "86400",
            "week|weeks": "604800",
        },
        "time",
    ),
    **_spellings({"month|months": "1", "year|years": "12"}, "months"),
    **_spellings({"dollar|dollars|usd": "1", "cent|cents": "1/100"}, "dollars"),
    **_spellings({"euro|euros|eur": "1"}, "euros"),
    **_spellings({"gbp": "1"}, "pounds sterling"),
    **_spellings({"yen|jpy": "1"}, "yen"),
    **_spellings({"rupee|rupees|inr": "1"}, "rupees"),
    **_spellings({"celsius|centigrade": "1"}, "celsius"),
    **_spellings({"fahrenheit": "1"}, "fahrenheit"),
    # Of what is squared or cubed is not read.
    **_spellings({"square|sq": "1"}, "area"),
    **_spellings({"cubic": "1"}, "volume"),
}
"""Dimension and factor to its base unit, by lower-case spelling."""

SYMBOLS: Mapping[str, tuple[str, Fraction]] = {
    **{
        prefix + symbol: (dimension, Fraction(10) ** power)
        for symbol, dimension in {
            **{"W": "power", "Wh": "energy", "Hz": "frequency", "V": "voltage"},
            **{"J": "energy in joules", "Pa": "pressure", "eV": "energy of particles"},
        }.items()
        for prefix, power in {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "m": -3}.items()
        if prefix or len(symbol) > 1
    },
    # Whether a kilobyte has 1000 or 1024 bytes is anybody's guess.
    **{
        prefix + symbol: (prefix.upper() + symbol, Fraction(1))
        for symbol in ("B", "iB", "b", "bit", "bps")
        for prefix in "kKMGTP"
    },
}
"""The same for symbols in which case counts: mW is not MW. A single letter is no unit."""

MULTIPLIERS: Mapping[str, int] = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "\u4e07": 10**4,
    "\u842c": 10**4,
    "\u4ebf": 10**8,
    "\u5104": 10**8,
}
"""Words that multiply the number before them."""

LETTERS: Mapping[str, int] = {
    "k": 10**3,
    "K": 10**3,
    "M": 10**6,
    "mn": 10**6,
    "B": 10**9,
    "bn": 10**9,
    "tn": 10**12,
}
"""Letters that may multiply the number before them; they have other meanings too."""
