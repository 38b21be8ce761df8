"""What Python's json reads and no record should hold.

Of a key that stands twice it would be a guess which value counts; NaN is no number.
"""

from __future__ import annotations

import math
from typing import Any


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members; for ``json.loads`` as ``object_pairs_hook``.

    Raises:
        ValueError: A key stands twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {repeated!r:.60} stands twice")
    return content


def is_number(value: object) -> bool:
    """Whether a value is a number: neither a boolean nor NaN, as some writers spell null."""
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
