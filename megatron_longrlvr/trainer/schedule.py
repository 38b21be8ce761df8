"""Periodic work as objects that say when they are due."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Every:
    """Due each ``period`` steps; a period of 0 is never due."""

    period: int

    def is_due(self, step: int) -> bool:
        """Whether the work belongs after step ``step``, counted from 1."""
        return self.period > 0 and step % self.period == 0
