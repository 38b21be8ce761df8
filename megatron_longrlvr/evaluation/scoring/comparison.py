"""Paired comparison of two files: do the same questions come out better?

Only questions that both files hold are compared, and the difference is averaged over cells like
the scores. Two tests: McNemar's exact test on the questions that one file has right and the other
wrong, where every score is 0 or 1 (it pools the cells); and the paired bootstrap, always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megatron_longrlvr.evaluation.scoring.bootstrap import (
    NUM_RESAMPLES,
    Estimate,
    estimate_mean,
    resampled_means,
)
from megatron_longrlvr.evaluation.scoring.summary import ItemScores

# Differences smaller than this are rounding of means, not a difference of scores.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """The second file against the first, by one rule."""

    rule: str
    difference: Estimate
    """Second minus first."""

    num_first_only: int
    """Questions on which the first file scores higher."""

    num_second_only: int
    mcnemar_p: float | None
    """Two-sided; None where a score lies between 0 and 1."""

    bootstrap_p: float
    """Two-sided."""


def compare(
    first: Mapping[str, ItemScores], second: Mapping[str, ItemScores], *, seed: int
) -> tuple[PairedComparison, ...]:
    """Compare by every rule that both files were scored by.

    Args:
        first: Scores of the questions by rule.
        second: The same of the other file.
        seed: Of the bootstrap.

    Raises:
        ValueError: The files share no question.
    """
    shared_rules = [rule for rule in first if rule in second]
    return tuple(_compare(rule, first[rule], second[rule], seed=seed) for rule in shared_rules)


def mcnemar_p(num_first_only: int, num_second_only: int) -> float:
    """Two-sided exact p-value: discordant pairs fall either way like a fair coin."""
    total = num_first_only + num_second_only
    if total == 0:
        return 1.0
    tail = _binomial_tail(total, min(num_first_only, num_second_only))
    return min(1.0, 2 * tail)


def _binomial_tail(num_tosses: int, at_most: int) -> float:
    """P(heads <= at_most) of a fair coin; in logarithms, since 2**-n underflows at n = 1075."""
    log_half = num_tosses * math.log(0.5)
    log_factorial = math.lgamma(num_tosses + 1)
    return math.fsum(
        math.exp(
            log_half + log_factorial - math.lgamma(heads + 1) - math.lgamma(num_tosses - heads + 1)
        )
        for heads in range(at_most + 1)
    )


def _compare(rule: str, first: ItemScores, second: ItemScores, *, seed: int) -> PairedComparison:
    differences: dict[str, list[float]] = {}
    pairs = []
    for cell, scores in first.items():
        others = second.get(cell, {})
        for item_id in scores.keys() & others.keys():
            pairs.append((scores[item_id], others[item_id]))
            differences.setdefault(cell, []).append(others[item_id] - scores[item_id])
    if not pairs:
        raise ValueError("the two files share no question: cells or ids differ")
    num_first_only = sum(a - b > _ROUNDING for a, b in pairs)
    num_second_only = sum(b - a > _ROUNDING for a, b in pairs)
    is_binary = all(score in {0.0, 1.0} for pair in pairs for score in pair)
    return PairedComparison(
        rule=rule,
        difference=estimate_mean(differences, seed=seed),
        num_first_only=num_first_only,
        num_second_only=num_second_only,
        mcnemar_p=mcnemar_p(num_first_only, num_second_only) if is_binary else None,
        bootstrap_p=_bootstrap_p(differences, seed=seed),
    )


def _bootstrap_p(differences: Mapping[str, list[float]], *, seed: int) -> float:
    means = resampled_means(differences, seed=seed)
    # One is added to numerator and denominator: a finite number of draws proves no p of 0.
    below = (np.count_nonzero(means <= _ROUNDING) + 1) / (NUM_RESAMPLES + 1)
    above = (np.count_nonzero(means >= -_ROUNDING) + 1) / (NUM_RESAMPLES + 1)
    return float(min(1.0, 2 * min(below, above)))
