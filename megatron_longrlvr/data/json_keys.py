"""JSON objects without a key that stands twice: which of its values counts would be a guess."""

from __future__ import annotations

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
