"""The scalar reward of a response, by variant.

With answer reward a, citation agreement F and share eta:

    longrlvr      r = a + eta * F + (1 - eta) * a * F    F on the set of cited chunks
    authors_code  the same formula                       F on the ids as written
    outcome_only  r = a
    context_only  r = F                                  F on the set of cited chunks

The eta term pays for citing well whatever the answer; the rest of F is paid only together with
the answer, so citing well never pays more than citing well and answering. ``outcome_only`` still
measures F, for the parts that are logged.

Paper: LongRLVR, arXiv:2603.02146.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.rewards.context_reward import (
    EvidenceMatch,
    match_evidence,
    match_evidence_as_released,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompositeReward:
    """A reward and what it was made of."""

    total: float
    """In [0, 2] for the two variants that add answer and context, else in [0, 1]."""

    answer: float
    """Answer reward in [0, 1]."""

    match: EvidenceMatch
    """By the matching rule of the variant."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardVariant:
    """A rule that matches citations and a rule that combines the parts."""

    match: Callable[[Sequence[int], Set[int], float], EvidenceMatch]
    """From ids as written, evidence and beta."""

    combine: Callable[[float, float, float], float]
    """From answer reward, F and eta."""


def compose_reward(
    config: RewardsConfig, *, answer: float, cited: Sequence[int], evidence: Set[int]
) -> CompositeReward:
    """Reward a response by the variant that the recipe names.

    Args:
        config: Supplies variant, beta and eta.
        answer: Answer reward in [0, 1].
        cited: Chunk ids as written, with repeats; empty where the response cited nothing.
        evidence: Annotated chunk ids.

    Raises:
        ValueError: ``evidence`` is empty.
    """
    variant = VARIANTS[config.variant]
    match = variant.match(cited, evidence, config.context.beta)
    total = variant.combine(answer, match.f_beta, config.context.eta)
    return CompositeReward(total=total, answer=answer, match=match)


def answer_and_context(answer: float, f_beta: float, eta: float) -> float:
    """Add the answer reward, the unconditional and the conditional context reward."""
    return answer + eta * f_beta + (1 - eta) * answer * f_beta


def _answer_alone(answer: float, _f_beta: float, _eta: float) -> float:
    return answer


def _context_alone(_answer: float, f_beta: float, _eta: float) -> float:
    return f_beta


def _match_set(cited: Sequence[int], evidence: Set[int], beta: float) -> EvidenceMatch:
    return match_evidence(frozenset(cited), evidence, beta=beta)


def _match_written(cited: Sequence[int], evidence: Set[int], beta: float) -> EvidenceMatch:
    return match_evidence_as_released(cited, evidence, beta=beta)


def split_reward(config: RewardsConfig, *, answer: float, f_beta: float) -> dict[str, float]:
    """Terms of a reward by name, :data:`REWARD_TERMS`; they add up to it.

    Args:
        config: Supplies variant and eta.
        answer: Answer reward.
        f_beta: Citation agreement by the variant's rule.
    """
    eta = config.context.eta
    if config.variant == "outcome_only":
        return {"answer": answer, "context": 0.0, "joint": 0.0}
    if config.variant == "context_only":
        return {"answer": 0.0, "context": f_beta, "joint": 0.0}
    return {"answer": answer, "context": eta * f_beta, "joint": (1 - eta) * answer * f_beta}


REWARD_TERMS = ("answer", "context", "joint")
"""What is paid for the answer alone, for citing whatever the answer, and for both together."""

VARIANTS: Mapping[str, RewardVariant] = {
    "longrlvr": RewardVariant(match=_match_set, combine=answer_and_context),
    "authors_code": RewardVariant(match=_match_written, combine=answer_and_context),
    "outcome_only": RewardVariant(match=_match_set, combine=_answer_alone),
    "context_only": RewardVariant(match=_match_set, combine=_context_alone),
}
