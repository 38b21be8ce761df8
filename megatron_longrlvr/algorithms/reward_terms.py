"""Advantages taken apart by the terms of the reward.

Within a group an advantage is k * (r - mean r) with one k for the group, so each term t of the
reward r = sum of t has its share k * (t - mean t), and the shares add up. What a response is
charged for its length is such a term. ``leave_one_out`` divides by another std for each sample;
there k is the one that fits best, and the shares add up nearly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import groupby

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.rewards.composite import REWARD_TERMS, split_reward
from megatron_longrlvr.stages import AdvantageBatch, ScoredSample

ADVANTAGE_TERMS = (*REWARD_TERMS, "overlong")
"""Terms of a reward, and the one that ``algorithm.overlong`` takes off it."""


def split_advantages(batch: AdvantageBatch, rewards: RewardsConfig) -> dict[str, list[list[float]]]:
    """Share of each term of the reward in the advantages of each sample's tokens, by term.

    Args:
        batch: This rank's samples in group order, the tokens of each with one advantage; may be
            empty.
        rewards: Supplies the terms.
    """
    shares: dict[str, list[list[float]]] = {term: [] for term in ADVANTAGE_TERMS}
    pairs = zip(batch.scored, batch.advantages, strict=True)
    for _, listed in groupby(pairs, key=lambda pair: pair[0].sample.prompt.prompt_id):
        scored, advantages = zip(*listed, strict=True)
        split = [_terms(one, rewards) for one in scored]
        means = [statistics.fmean(tokens) for tokens in advantages]
        scale = _scale([math.fsum(terms.values()) for terms in split], means)
        for term, listed_shares in shares.items():
            centred = _centred([terms[term] for terms in split])
            listed_shares += [
                [scale * value] * len(tokens)
                for value, tokens in zip(centred, advantages, strict=True)
            ]
    return shares


def _terms(scored: ScoredSample, rewards: RewardsConfig) -> dict[str, float]:
    parts = scored.reward_parts
    terms = split_reward(rewards, answer=parts["answer"], f_beta=parts["context_f_beta"])
    return {**terms, "overlong": -scored.overlong_charge}


def _scale(rewards: Sequence[float], advantages: Sequence[float]) -> float:
    """Least squares of advantages on centred rewards; 0 where the rewards are equal."""
    centred = _centred(rewards)
    square = math.fsum(value**2 for value in centred)
    product = math.fsum(a * value for a, value in zip(advantages, centred, strict=True))
    return product / square if square else 0.0


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]
