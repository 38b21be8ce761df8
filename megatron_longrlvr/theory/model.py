"""The small model in which the claim is made: chunks are cited by independent coins.

A document has N chunks, g of them evidence. Chunk j is cited with probability p_j = sigmoid(s_j),
and the gradient of interest is that of the expected reward by the logit s_j of an evidence chunk.
The answer is right if and only if all of the evidence is cited.

Two controls weaken the assumptions. With partial credit the answer reward is the share of the
evidence that is cited. With coupling the evidence logits of a sample share a normal shift, so that
evidence tends to be cited together; the probability of a single citation stays what it was.

Paper: LongRLVR, arXiv:2603.02146. The closed forms here are derived for this model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from megatron_longrlvr.rewards.composite import VARIANTS

Array = npt.NDArray[np.float64]

# Nodes of the Gauss-Hermite rule for the shift; sigmoids of it are smooth.
_NUM_NODES = 64
_BISECTIONS = 80
_WIDEST_LOGIT = 40.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One document and the policy's present citing."""

    num_chunks: int
    num_evidence: int
    cite_probability: float
    """Of every chunk."""

    has_partial_credit: bool = False
    coupling: float = 0.0
    """Standard deviation of the shift that evidence logits share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Payment:
    """What a sample earns."""

    name: str
    variant: str
    """As in a recipe's ``rewards.variant``."""

    eta: float = 0.1
    beta: float = 2.0


PAYMENTS = (
    Payment(name="outcome only", variant="outcome_only"),
    Payment(name="eta = 0", variant="longrlvr", eta=0.0),
    Payment(name="LongRLVR", variant="longrlvr"),
    Payment(name="context only", variant="context_only"),
)


def reward_of(payment: Payment, setting: Setting, *, correct: Array, wrong: Array) -> Array:
    """Reward by the numbers of cited evidence chunks and of other cited chunks.

    The two arrays have a common shape or broadcast to one.
    """
    recall = correct / setting.num_evidence
    answer = recall if setting.has_partial_credit else (recall == 1.0).astype(np.float64)
    f_beta = f_beta_of(correct, wrong, num_evidence=setting.num_evidence, beta=payment.beta)
    # The product's own formula; it is arithmetic, so that it takes arrays as well.
    combine = VARIANTS[payment.variant].combine
    paid = combine(cast(float, answer + 0 * wrong), cast(float, f_beta), payment.eta)
    return np.asarray(paid, dtype=np.float64)


def f_beta_of(correct: Array, wrong: Array, *, num_evidence: int, beta: float) -> Array:
    """F-beta in counts: ``(1 + b2) * correct / (b2 * evidence + cited)``."""
    weight = beta**2
    return (1 + weight) * correct / (weight * num_evidence + correct + wrong)


def sigmoid(logits: Array) -> Array:
    """Without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def shifts(coupling: float) -> tuple[Array, Array]:
    """Values of the shift and their weights, which sum to 1."""
    if coupling == 0:
        return np.zeros(1), np.ones(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NUM_NODES)
    return coupling * nodes, weights / math.sqrt(2 * math.pi)


def evidence_logit(setting: Setting) -> float:
    """Logit at which, over the shift, evidence is cited as often as any chunk."""
    values, weights = shifts(setting.coupling)
    low, high = -_WIDEST_LOGIT, _WIDEST_LOGIT
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if float(weights @ sigmoid(middle + values)) < setting.cite_probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
