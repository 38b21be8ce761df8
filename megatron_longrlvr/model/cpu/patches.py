"""The one way a patch is made: replace an attribute, note its name and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """One replaced attribute or stubbed module."""

    name: str
    """Dotted, as a reader of megatron-core would write it."""

    reason: str
    """What fails, or goes wrong unnoticed, without it."""


_made: list[Patch] = []


def replace(owner: Any, attribute: str, value: object, *, reason: str) -> None:
    """Set ``owner.attribute`` to ``value`` and record it.

    Args:
        owner: A module or a class.
        attribute: Need not exist yet.
        value: The replacement.
        reason: See `Patch.reason`.
    """
    setattr(owner, attribute, value)
    record(f"{_dotted_name(owner)}.{attribute}", reason=reason)


def record(name: str, *, reason: str) -> None:
    """Note a change that is not the replacement of an attribute."""
    _made.append(Patch(name=name, reason=reason))


def made() -> tuple[Patch, ...]:
    """Every patch so far, in the order in which it was made."""
    return tuple(_made)


def _dotted_name(owner: Any) -> str:
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}"
    return str(owner.__name__)
