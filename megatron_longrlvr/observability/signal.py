"""Does a reward send a gradient? The paper's claim, measured on the policy that is trained.

The paper argues with a policy that cites each chunk by a coin of its own: an outcome-only gradient
on citing evidence chunk j is multiplied by the probability that all other evidence is cited, a
context reward's is not. What follows from that can be seen in any group of samples:

    flat groups           all samples earn the same, so advantages are 0
    others cited          the probability itself, and the product that independence would make it
    right given cited     whether partial evidence really earns nothing
    evidence gradient     covariance of "chunk j is cited" with each term of the reward: on the
                          paper's policy the exact gradient with respect to the logit of chunk j
    advantage variance    what each term adds to the advantages that the update sees

Covariances divide by n - 1 and so have no bias. Groups need two valid samples.

Paper: LongRLVR, arXiv:2603.02146.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.step_metrics import (
    INFORMATIVE_SPREAD,
    RIGHT_ANSWER,
    groups_of,
)
from megatron_longrlvr.observability.tally import Entry, Tally
from megatron_longrlvr.rewards.composite import REWARD_TERMS, split_reward
from megatron_longrlvr.stages import ScoredBatch, ScoredSample

SCALED_BY_STD = frozenset({"grpo", "leave_one_out"})
"""Kinds of advantage that bring every group to about the same variance."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Valid samples of one prompt."""

    samples: Sequence[ScoredSample]
    terms: Mapping[str, Sequence[float]]
    """Of each sample, by term of the reward."""

    @property
    def rewards(self) -> list[float]:
        return [math.fsum(values) for values in zip(*self.terms.values(), strict=True)]

    def part(self, name: str) -> list[float]:
        return [scored.reward_parts[name] for scored in self.samples]


def signal_tally(batch: ScoredBatch, rewards: RewardsConfig, *, advantage: str | None) -> Tally:
    """Count what the rewards of a batch say to its policy.

    Args:
        batch: This rank's scored samples.
        rewards: Supplies the terms of the reward.
        advantage: Kind of advantage; decides whether groups count alike in its variance. None
            where samples have no single one, whose variance could be told.
    """
    groups = [_group(group, rewards) for group in groups_of(batch)]
    comparable = [group for group in groups if len(group.samples) > 1]
    tally = (
        _flat_tally(groups)
        + _others_tally(groups)
        + _assumption_tally(groups)
        + _gradient_tally(comparable)
    )
    if advantage is None:
        return tally
    return tally + _variance_tally(comparable, is_scaled=advantage in SCALED_BY_STD)


def _group(group: Sequence[ScoredSample], rewards: RewardsConfig) -> _Group:
    valid = [scored for scored in group if scored.is_valid]
    split = [
        split_reward(
            rewards,
            answer=scored.reward_parts["answer"],
            f_beta=scored.reward_parts["context_f_beta"],
        )
        for scored in valid
    ]
    return _Group(valid, {term: [one[term] for one in split] for term in REWARD_TERMS})


def _flat_tally(groups: Sequence[_Group]) -> Tally:
    return Tally.of(
        {
            names.SIGNAL_FLAT_ANSWER_FRAC: [_is_flat(group.part("answer")) for group in groups],
            names.SIGNAL_FLAT_CONTEXT_FRAC: [
                _is_flat(group.part("context_f_beta")) for group in groups
            ],
            names.SIGNAL_FLAT_REWARD_FRAC: [
                _is_flat([scored.reward for scored in group.samples]) for group in groups
            ],
        }
    )


def _is_flat(values: Sequence[float]) -> bool:
    return not values or max(values) - min(values) <= INFORMATIVE_SPREAD


def _others_tally(groups: Sequence[_Group]) -> Tally:
    together: list[float] = []
    independent: list[float] = []
    by_evidence: dict[int, list[float]] = {bound: [] for bound in names.EVIDENCE_BOUNDS}
    for group in groups:
        if not group.samples:
            continue
        evidence = group.samples[0].sample.prompt.evidence_chunk_ids
        seen = [_others_cited(scored) for scored in group.samples]
        together += seen
        by_evidence[names.evidence_bucket(len(evidence))] += seen
        independent += [_others_if_independent(group, evidence)] * len(group.samples)
    return Tally.of(
        {
            names.SIGNAL_OTHERS_CITED_FRAC: together,
            names.SIGNAL_OTHERS_CITED_INDEPENDENT_FRAC: independent,
            **{names.others_cited_by_evidence(bound): seen for bound, seen in by_evidence.items()},
        }
    )


def _others_cited(scored: ScoredSample) -> float:
    """Share of the evidence chunks of which all others are cited."""
    num_missing = _num_missing(scored)
    if num_missing == 0:
        return 1.0
    # Only the missing chunk itself has all others cited.
    return 1 / len(scored.sample.prompt.evidence_chunk_ids) if num_missing == 1 else 0.0


def _others_if_independent(group: _Group, evidence: frozenset[int]) -> float:
    rates = [math.fsum(_is_cited(group, chunk)) / len(group.samples) for chunk in sorted(evidence)]
    products = [math.prod(rates[:place] + rates[place + 1 :]) for place in range(len(rates))]
    return math.fsum(products) / len(products)


def _assumption_tally(groups: Sequence[_Group]) -> Tally:
    right: dict[str, list[float]] = {
        names.SIGNAL_RIGHT_GIVEN_ALL_CITED: [],
        names.SIGNAL_RIGHT_GIVEN_ONE_MISSING: [],
        names.SIGNAL_RIGHT_GIVEN_MORE_MISSING: [],
    }
    listed = list(right.values())
    for group in groups:
        for scored in group.samples:
            place = min(_num_missing(scored), len(listed) - 1)
            listed[place].append(float(scored.reward_parts["answer"] >= RIGHT_ANSWER))
    return Tally.of(right)


def _gradient_tally(groups: Sequence[_Group]) -> Tally:
    pulls: dict[str, list[float]] = {term: [] for term in (*REWARD_TERMS, "reward")}
    for group in groups:
        values = {**group.terms, "reward": group.rewards}
        for chunk in sorted(group.samples[0].sample.prompt.evidence_chunk_ids):
            cited = _is_cited(group, chunk)
            for term, listed in pulls.items():
                listed.append(_covariance(cited, values[term]))
    return Tally.of({names.evidence_gradient(term): listed for term, listed in pulls.items()})


def _variance_tally(groups: Sequence[_Group], *, is_scaled: bool) -> Tally:
    totals, weight = dict.fromkeys(REWARD_TERMS, 0.0), 0.0
    for group in groups:
        rewards = group.rewards
        if _is_flat(rewards):
            continue
        variance = _covariance(rewards, rewards)
        scale = 1 / variance if is_scaled else 1.0
        weight += scale * variance
        for term in REWARD_TERMS:
            totals[term] += scale * _covariance(group.terms[term], rewards)
    return Tally(
        {
            names.advantage_variance_frac(term): Entry(total=total, count=weight)
            for term, total in totals.items()
        }
    )


def _is_cited(group: _Group, chunk: int) -> list[float]:
    return [float(chunk in scored.cited_chunk_ids) for scored in group.samples]


def _num_missing(scored: ScoredSample) -> int:
    return len(scored.sample.prompt.evidence_chunk_ids - set(scored.cited_chunk_ids))


def _covariance(first: Sequence[float], second: Sequence[float]) -> float:
    means = math.fsum(first) / len(first), math.fsum(second) / len(second)
    products = ((a - means[0]) * (b - means[1]) for a, b in zip(first, second, strict=True))
    return math.fsum(products) / (len(first) - 1)
