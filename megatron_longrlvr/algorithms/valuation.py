"""What a critic's values make of a step's samples: advantages, returns, and how good it is.

Token rewards are the outcome reward at a response's last token and, where the recipe charges for
divergence in the reward, minus that charge at every token.

Shapes: T tokens of a micro-batch, S samples of it, N tokens of its longest response.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from megatron_longrlvr.algorithms.gae import generalized_advantages
from megatron_longrlvr.algorithms.kl import kl_in_reward
from megatron_longrlvr.algorithms.mismatch import samples_of
from megatron_longrlvr.algorithms.packing import ALONE, Peers
from megatron_longrlvr.config.critic import CriticConfig
from megatron_longrlvr.config.training import KlConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import MicroBatch, TrainBatch, ValueBatch

# Advantages that are equal but for rounding have no scale to divide by.
_MIN_STD = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Valuation:
    """A step's batches, with what the critic had to say."""

    batches: Sequence[TrainBatch]
    """With the critic's advantages."""

    values: Sequence[ValueBatch]
    """For the critic to learn from; in the order of ``batches``."""

    metrics: Mapping[str, float]
    """By metric name, over the response tokens of all ranks; what has no spread is left out."""


def evaluate_tokens(
    batches: Sequence[TrainBatch],
    values: Sequence[Sequence[Tensor]],
    *,
    critic: CriticConfig,
    kl: KlConfig,
    peers: Peers = ALONE,
) -> Valuation:
    """Estimate each response token's advantage and return by GAE.

    Args:
        batches: Of the step's updates, on this rank.
        values: By batch and micro-batch [T], of the critic before the step's first update.
        critic: Supplies gamma and lambda.
        kl: Says whether token rewards are charged for divergence.
        peers: All data-parallel ranks; every one of them calls this.
    """
    valued, credited = [], []
    for batch, rows in zip(batches, values, strict=True):
        found = [
            _row_estimates(micro_batch, _token_rewards(batch, index, kl), row.cpu(), critic)
            for index, (micro_batch, row) in enumerate(
                zip(batch.packed.micro_batches, rows, strict=True)
            )
        ]
        credited.append(with_advantages(batch, [advantages for advantages, _ in found]))
        returns = [one for _, one in found]
        valued.append(
            ValueBatch(packed=batch.packed, values=[row.cpu() for row in rows], returns=returns)
        )
    return Valuation(batches=credited, values=valued, metrics=_metrics(valued, peers))


def with_advantages(batch: TrainBatch, advantages: Sequence[Tensor]) -> TrainBatch:
    """The batch with other advantages, per micro-batch [T]."""
    micro_batches = [
        replace(micro_batch, advantages=row)
        for micro_batch, row in zip(batch.packed.micro_batches, advantages, strict=True)
    ]
    return replace(batch, packed=replace(batch.packed, micro_batches=micro_batches))


def whiten_tokens(batches: Sequence[TrainBatch], peers: Peers = ALONE) -> list[TrainBatch]:
    """Shift and scale advantages to mean 0 and variance 1 over response tokens of all ranks.

    Args:
        batches: Of the step's updates, on this rank.
        peers: All data-parallel ranks; every one of them calls this.
    """
    rows = [row for batch in batches for row in batch.packed.micro_batches]
    own = [row.advantages[row.is_response].double() for row in rows]
    count, total = _sums(peers, [float(sum(map(len, own))), sum(float(one.sum()) for one in own)])
    if count < 2:  # no variance; all ranks see the same count
        return list(batches)
    mean = total / count
    (squares,) = _sums(peers, [sum(float((one - mean).square().sum()) for one in own)])
    scale = max(math.sqrt(squares / (count - 1)), _MIN_STD)
    return [
        with_advantages(
            batch,
            [
                torch.where(row.is_response, (row.advantages - mean) / scale, 0.0)
                for row in batch.packed.micro_batches
            ],
        )
        for batch in batches
    ]


def _token_rewards(batch: TrainBatch, index: int, kl: KlConfig) -> Tensor:
    rewards = batch.packed.micro_batches[index].rewards
    if batch.reference_logprobs is None or kl.place != "reward":
        return rewards
    return kl_in_reward(
        rewards,
        policy_logprobs=batch.proximal_logprobs[index].cpu(),
        reference_logprobs=batch.reference_logprobs[index].cpu(),
        config=kl,
    )


def _row_estimates(
    micro_batch: MicroBatch, rewards: Tensor, values: Tensor, critic: CriticConfig
) -> tuple[Tensor, Tensor]:
    """Advantages and returns [T] of a micro-batch, float32 and 0 outside responses."""
    places = [places for places, _ in samples_of(micro_batch)]
    lengths = torch.tensor([len(one) for one in places])
    found = generalized_advantages(
        pad_sequence([rewards[one] for one in places], batch_first=True),
        pad_sequence([values[one] for one in places], batch_first=True),
        lengths,
        gamma=critic.gamma,
        lam=critic.lam,
    )
    filled = torch.zeros(2, len(rewards))
    for i, (sample, length) in enumerate(zip(places, lengths.tolist(), strict=True)):
        filled[:, sample] = torch.stack([padded[i, :length] for padded in found]).float()
    return filled[0], filled[1]


def _metrics(valued: Sequence[ValueBatch], peers: Peers) -> dict[str, float]:
    sums = torch.zeros(5, dtype=torch.float64)
    for batch in valued:
        for row, values, returns in zip(
            batch.packed.micro_batches, batch.values, batch.returns, strict=True
        ):
            earned = returns[row.is_response].double()
            error = earned - values[row.is_response].double()
            parts = (torch.ones_like(earned), earned, earned.square(), error, error.square())
            sums += torch.stack([part.sum() for part in parts])
    count, earned_sum, squares, error_sum, error_squares = _sums(peers, sums.tolist())
    if count == 0:
        return {}
    found = {
        names.CRITIC_RETURN_MEAN: earned_sum / count,
        names.CRITIC_VALUE_MEAN: (earned_sum - error_sum) / count,
    }
    variance = squares / count - (earned_sum / count) ** 2
    if variance > _MIN_STD**2:
        unexplained = error_squares / count - (error_sum / count) ** 2
        found[names.CRITIC_EXPLAINED_VARIANCE] = 1 - unexplained / variance
    return found


def _sums(peers: Peers, values: Sequence[float]) -> list[float]:
    """Each value summed over all ranks, in the same order on each of them."""
    return [math.fsum(shares) for shares in zip(*peers.gather(list(values)), strict=True)]
