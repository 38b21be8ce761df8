"""Sums and counts that add up over batches and data-parallel ranks.

A mean of means is wrong as soon as two ranks hold different numbers of samples, so a rank reports
sums and counts; they are added, and divided once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A sum and the number of things it runs over."""

    total: float = 0.0
    count: float = 0.0

    def __add__(self, other: Entry) -> Entry:
        return Entry(total=self.total + other.total, count=self.count + other.count)

    @property
    def mean(self) -> float:
        """NaN over nothing: unmeasured, which is not 0."""
        return self.total / self.count if self.count else math.nan


@dataclass(frozen=True, slots=True)
class Tally:
    """Named sums with their counts."""

    entries: Mapping[str, Entry]

    @classmethod
    def of(cls, values: Mapping[str, Sequence[float]]) -> Tally:
        """Sum up the values listed under each name."""
        return cls(
            {
                name: Entry(total=math.fsum(listed), count=len(listed))
                for name, listed in values.items()
            }
        )

    @classmethod
    def from_vector(cls, names: Sequence[str], vector: Sequence[float]) -> Tally:
        """Inverse of :meth:`to_vector`.

        Args:
            names: ``names`` of the tally that was laid out.
            vector: [2 * len(names)]; all totals, then all counts.

        Raises:
            ValueError: Names and vector do not belong together.
        """
        if len(vector) != 2 * len(names):
            raise ValueError(f"{len(names)} names need {2 * len(names)} numbers, got {len(vector)}")
        totals, counts = vector[: len(names)], vector[len(names) :]
        return cls(
            {
                name: Entry(total=float(total), count=float(count))
                for name, total, count in zip(names, totals, counts, strict=True)
            }
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Sorted, so that ranks which counted the same things agree on the order."""
        return tuple(sorted(self.entries))

    def to_vector(self) -> list[float]:
        """[2 * len(names)]; all totals, then all counts, in the order of ``names``.

        Meant for one float64 all-reduce: counts stay exact up to 2**53.
        """
        ordered = [self.entries[name] for name in self.names]
        return [entry.total for entry in ordered] + [entry.count for entry in ordered]

    def __add__(self, other: Tally) -> Tally:
        """Entries of the same name add up; the others stay as they are."""
        names = self.entries.keys() | other.entries.keys()
        return Tally({name: self[name] + other[name] for name in sorted(names)})

    def __getitem__(self, name: str) -> Entry:
        return self.entries.get(name, Entry())

    def means(self) -> dict[str, float]:
        """Total over count of every name; NaN where nothing was counted."""
        return {name: self.entries[name].mean for name in self.names}

    def std(self, values: str, squares: str) -> float:
        """Population standard deviation from the entries of values and of their squares."""
        # Rounding can push the difference of two nearly equal numbers below 0.
        variance = self[squares].mean - self[values].mean ** 2
        return variance if math.isnan(variance) else math.sqrt(max(variance, 0.0))
