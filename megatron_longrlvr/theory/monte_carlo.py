"""The same gradients from samples, as a policy gradient sees them: reward times score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from megatron_longrlvr.theory.model import (
    Array,
    Payment,
    Setting,
    evidence_logit,
    reward_of,
    sigmoid,
)

_BLOCK = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A sample mean and its standard error."""

    mean: float
    stderr: float


def estimate_gradient(
    setting: Setting, payment: Payment, *, num_samples: int, seed: int
) -> Estimate:
    """Estimate the gradient by the logit of an evidence chunk, averaged over the evidence.

    The mean reward of each block is subtracted, as GRPO subtracts that of the group; that biases
    by one part in 100,000.
    """
    draw = np.random.default_rng(seed)
    logit = evidence_logit(setting)
    terms = []
    for start in range(0, num_samples, _BLOCK):
        size = min(_BLOCK, num_samples - start)
        cited, p = sample_evidence(setting, logit, size=size, draw=draw)
        num_others = setting.num_chunks - setting.num_evidence
        # Only their number counts, so that one draw stands for all of their coins.
        wrong = draw.binomial(num_others, setting.cite_probability, size).astype(np.float64)
        rewards = reward_of(payment, setting, correct=cited.sum(1), wrong=wrong)
        terms.append((rewards - rewards.mean()) * (cited - p).mean(1))
    joined = np.concatenate(terms)
    return Estimate(
        mean=float(joined.mean()), stderr=float(joined.std(ddof=1)) / math.sqrt(len(joined))
    )


def sample_evidence(
    setting: Setting, logit: float, *, size: int, draw: np.random.Generator
) -> tuple[Array, Array]:
    """Citations of evidence, ``[size, g]`` of 0 and 1, and the probability that each had."""
    shift = setting.coupling * draw.standard_normal((size, 1))
    p = np.broadcast_to(sigmoid(logit + shift), (size, setting.num_evidence))
    return (draw.random(p.shape) < p).astype(np.float64), p
