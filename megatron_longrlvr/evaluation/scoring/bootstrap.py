"""Bootstrap intervals of means that are averaged over cells.

The estimate is the mean over cells of each cell's mean over questions; a question with several
samples counts once, with their mean, for samples of one question are not independent. Resampling
draws questions within each cell.

Drawing n of n values with replacement and counting how often each distinct value was drawn is a
multinomial draw, which needs no index per question: the result has the same distribution and costs
little where few distinct values exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its percentile interval."""

    mean: float
    low: float
    high: float
    num_items: int


def estimate_mean(values_by_cell: Mapping[str, Sequence[float]], *, seed: int) -> Estimate:
    """Mean over cells with a 95 % interval; same values and seed, same interval.

    Args:
        values_by_cell: One value a question, no cell empty.
        seed: Of the resampling.
    """
    means = resampled_means(values_by_cell, seed=seed)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(
        mean=mean_over_cells(values_by_cell),
        low=float(low),
        high=float(high),
        num_items=sum(map(len, values_by_cell.values())),
    )


def mean_over_cells(values_by_cell: Mapping[str, Sequence[float]]) -> float:
    """Mean of the cells' means."""
    return float(np.mean([np.mean(values) for values in values_by_cell.values()]))


def resampled_means(
    values_by_cell: Mapping[str, Sequence[float]], *, seed: int
) -> NDArray[np.float64]:
    """Means over cells of resampled questions, [NUM_RESAMPLES] float64."""
    generator = np.random.default_rng(seed)
    total = np.zeros(NUM_RESAMPLES)
    for cell in sorted(values_by_cell):
        distinct, counts = np.unique(np.asarray(values_by_cell[cell]), return_counts=True)
        num_items = int(counts.sum())
        drawn = generator.multinomial(num_items, counts / num_items, size=NUM_RESAMPLES)
        total += drawn @ distinct / num_items
    return np.asarray(total / len(values_by_cell))
