"""Give scored samples their advantage; what teaches nothing is left out and counted."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import torch

from megatron_longrlvr.algorithms.advantage import group_advantages, unknown_advantages
from megatron_longrlvr.algorithms.packing import ALONE, Peers
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.stages import AdvantageBatch, ScoredBatch

MIN_VALID_SAMPLES = 2
"""Of a group that is learned from."""

# A batch whose advantages are equal but for rounding has no scale to divide by.
_MIN_STD = 1e-6


def assign_advantages(batch: ScoredBatch, config: AlgorithmConfig) -> AdvantageBatch:
    """Give every valid sample its advantages.

    Invalid samples are always left out, and so is a valid one without any valid sibling, which
    has nothing to be compared with, unless a critic says what it is worth. Groups without spread
    in the reward are left out when ``algorithm.drop_uninformative_groups`` says so; otherwise
    their valid samples stay with advantage 0, and so count in the loss's denominator. A dropped
    group is one of which no sample is left.

    Args:
        batch: This rank's scored samples; may be empty.
        config: Supplies the kind of advantage and the rule about uninformative groups.
    """
    size = batch.group_size
    assert len(batch.scored) % size == 0, (
        f"{len(batch.scored)} samples are not whole groups of {size}"
    )
    is_valid = torch.tensor([scored.is_valid for scored in batch.scored], dtype=torch.bool)
    rewards = torch.tensor([scored.reward for scored in batch.scored], dtype=torch.float64)
    is_valid, rewards = is_valid.view(-1, size), rewards.view(-1, size)
    if config.advantage == "gae":
        is_kept, groups = is_valid, unknown_advantages(rewards, is_valid=is_valid)
    else:
        is_kept = is_valid & (is_valid.sum(dim=1, keepdim=True) >= MIN_VALID_SAMPLES)
        groups = group_advantages(rewards, is_valid=is_valid, kind=config.advantage)
    if config.drop_uninformative_groups:
        is_kept = is_kept & groups.is_informative[:, None]
    kept = is_kept.flatten().nonzero().flatten().tolist()
    values = groups.values.flatten().tolist()
    return AdvantageBatch(
        step=batch.step,
        scored=[batch.scored[index] for index in kept],
        advantages=[[values[index]] * len(batch.scored[index].sample.token_ids) for index in kept],
        num_groups=is_kept.shape[0],
        num_dropped_groups=int((~is_kept.any(dim=1)).sum()),
    )


def whiten_advantages(batch: AdvantageBatch, peers: Peers = ALONE) -> AdvantageBatch:
    """Shift and scale advantages to mean 0 and variance 1 over the samples of all ranks.

    A sample counts once, however many tokens it has. With ``dr_grpo`` advantages this is
    REINFORCE++ with the group's mean as baseline (arXiv:2501.03262): one scale for the batch, where
    GRPO has one for each group.

    Args:
        batch: This rank's samples; may be empty.
        peers: All data-parallel ranks; every one of them calls this.
    """
    everyone = [tokens for share in peers.gather(batch.advantages) for tokens in share]
    if len(everyone) < MIN_VALID_SAMPLES:
        return batch
    mean = math.fsum(statistics.fmean(tokens) for tokens in everyone) / len(everyone)
    squares = (statistics.fmean((value - mean) ** 2 for value in tokens) for tokens in everyone)
    scale = max(math.sqrt(math.fsum(squares) / (len(everyone) - 1)), _MIN_STD)
    return replace(
        batch,
        advantages=[[(value - mean) / scale for value in tokens] for tokens in batch.advantages],
    )
