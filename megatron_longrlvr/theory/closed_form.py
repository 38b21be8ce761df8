"""Gradients without sampling.

For any reward R of the citations, with z_j = 1 where chunk j is cited,

    dE[R]/ds_j = Var(z_j) * (E[R | z_j = 1] - E[R | z_j = 0])

For the all-or-nothing answer the bracket is Pr(all other evidence is cited), a product of g - 1
probabilities: it vanishes. For F-beta it is a sum over binomials, in which nothing vanishes.
"""

from __future__ import annotations

import math

import numpy as np

from megatron_longrlvr.theory.model import (
    Array,
    Payment,
    Setting,
    evidence_logit,
    reward_of,
    shifts,
    sigmoid,
)

# Rewards that differ by less count as equal: they are sums of a few fractions.
_SAME_REWARD_DECIMALS = 12


def gradient(setting: Setting, payment: Payment) -> float:
    """Gradient of the expected reward by the logit of one evidence chunk."""
    values, weights = shifts(setting.coupling)
    total = 0.0
    for weight, p in zip(weights, sigmoid(evidence_logit(setting) + values), strict=True):
        if_cited = _expected_reward(setting, payment, p=float(p), pinned=1)
        if_not = _expected_reward(setting, payment, p=float(p), pinned=0)
        total += float(weight * p * (1 - p)) * (if_cited - if_not)
    return total


def all_others_cited(setting: Setting) -> float:
    """Probability that all evidence but one given chunk is cited."""
    values, weights = shifts(setting.coupling)
    p = sigmoid(evidence_logit(setting) + values)
    return float(weights @ p ** (setting.num_evidence - 1))


def signal_share(setting: Setting, payment: Payment, *, group_size: int) -> float:
    """Share of groups in which not all samples earn the same; the others teach nothing."""
    values, weights = shifts(setting.coupling)
    wrong = _binomial(setting.num_chunks - setting.num_evidence, setting.cite_probability)
    correct = sum(
        weight * _binomial(setting.num_evidence, float(p))
        for weight, p in zip(weights, sigmoid(evidence_logit(setting) + values), strict=True)
    )
    joint = np.outer(correct, wrong)
    rewards = _rewards(setting, payment, num_correct=len(joint))
    _, which = np.unique(rewards.round(_SAME_REWARD_DECIMALS), return_inverse=True)
    chances = np.bincount(which.ravel(), weights=joint.ravel())
    # 1 - sum(q^n), written so that shares far below 1e-16 do not drown: the most likely reward's
    # 1 - q^n is computed from the chance of all others.
    likeliest = int(chances.argmax())
    others = np.delete(chances, likeliest)
    missing = -math.expm1(group_size * math.log1p(-min(1.0, float(others.sum()))))
    return float(missing - (others**group_size).sum())


def _expected_reward(setting: Setting, payment: Payment, *, p: float, pinned: int) -> float:
    """Mean reward where one evidence chunk is cited (1) or not (0), whatever the coins say."""
    free = setting.num_evidence - 1
    wrong = _binomial(setting.num_chunks - setting.num_evidence, setting.cite_probability)
    rewards = _rewards(setting, payment, num_correct=free + 1, first_correct=pinned)
    return float(_binomial(free, p) @ rewards @ wrong)


def _rewards(
    setting: Setting, payment: Payment, *, num_correct: int, first_correct: int = 0
) -> Array:
    """Rewards by number of right citations (rows) and of wrong ones (columns)."""
    correct = np.arange(first_correct, first_correct + num_correct, dtype=np.float64)
    wrong = np.arange(setting.num_chunks - setting.num_evidence + 1, dtype=np.float64)
    return reward_of(payment, setting, correct=correct[:, None], wrong=wrong[None, :])


def _binomial(num_trials: int, p: float) -> Array:
    """Probabilities of 0 to ``num_trials`` successes."""
    return np.array(
        [
            math.comb(num_trials, count) * p**count * (1 - p) ** (num_trials - count)
            for count in range(num_trials + 1)
        ]
    )
