"""Counts of a whole-number quantity: exact percentiles in memory that does not grow with rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

PERCENTILES = (1, 10, 50, 90, 99)
_NUM_BINS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One bar of a histogram: values from ``low`` up to and including ``high``."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often each value occurred."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, values: Iterable[int]) -> None:
        self.counts.update(values)

    @property
    def total(self) -> int:
        """Values seen."""
        return self.counts.total()

    def mean(self) -> float:
        """0 where nothing was seen."""
        return sum(value * count for value, count in self.counts.items()) / max(1, self.total)

    def percentile(self, percent: float) -> int:
        """The smallest value that at least so many percent do not exceed; 0 without values."""
        seen = 0
        for value, count in sorted(self.counts.items()):
            seen += count
            if seen * 100 >= percent * self.total:
                return value
        return 0

    def bins(self) -> list[Bin]:
        """At most 20 bars of equal width from the smallest to the largest value."""
        if not self.counts:
            return []
        low, high = min(self.counts), max(self.counts)
        width = max(1, -(-(high - low + 1) // _NUM_BINS))
        heights = Counter({(value - low) // width: 0 for value in (low, high)})
        for value, count in self.counts.items():
            heights[(value - low) // width] += count
        return [
            Bin(low=low + place * width, high=low + (place + 1) * width - 1, count=heights[place])
            for place in range(max(heights) + 1)
        ]

    def summary(self) -> dict[str, float]:
        """Mean, least, greatest and percentiles."""
        return {
            "mean": round(self.mean(), 2),
            "min": min(self.counts, default=0),
            **{f"p{percent}": self.percentile(percent) for percent in PERCENTILES},
            "max": max(self.counts, default=0),
        }
