"""Give scored samples their advantage; what teaches nothing is left out and counted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.advantage import group_advantages, unknown_advantages
from megatron_longrlvr.algorithms.credit import SegmentCredit
from megatron_longrlvr.algorithms.overlong import is_truncated
from megatron_longrlvr.algorithms.packing import ALONE, Peers
from megatron_longrlvr.config.training import AlgorithmConfig, OverlongConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import AdvantageBatch, ScoredBatch

MIN_VALID_SAMPLES = 2
"""Of a group that is learned from."""

# A batch whose advantages are equal but for rounding has no scale to divide by.
_MIN_STD = 1e-6


def assign_advantages(
    batch: ScoredBatch, config: AlgorithmConfig, credit: SegmentCredit | None = None
) -> AdvantageBatch:
    """Give every valid sample its advantages.

    Invalid samples are always left out, and so is a valid one without any valid sibling, which
    has nothing to be compared with, unless a critic says what it is worth. Groups without spread
    in the reward are left out when ``algorithm.drop_uninformative_groups`` says so; otherwise
    their valid samples stay with advantage 0, and so count in the loss's denominator. Truncated
    samples that ``algorithm.overlong`` leaves out still are what their siblings are compared with.
    A dropped group is one of which no sample is left.

    Args:
        batch: This rank's scored samples; may be empty.
        config: Supplies the kind of advantage and the rule about uninformative groups.
        credit: Divides advantages by part of the reward; None gives all tokens of a sample the
            same. Which samples stay does not depend on it.
    """
    size = batch.group_size
    assert len(batch.scored) % size == 0, (
        f"{len(batch.scored)} samples are not whole groups of {size}"
    )
    is_valid = torch.tensor([scored.is_valid for scored in batch.scored], dtype=torch.bool)
    rewards = torch.tensor([scored.reward for scored in batch.scored], dtype=torch.float64)
    is_valid, rewards = is_valid.view(-1, size), rewards.view(-1, size)
    if config.advantage == "gae":
        groups = unknown_advantages(rewards, is_valid=is_valid)
    else:
        groups = group_advantages(rewards, is_valid=is_valid, kind=config.advantage)
    is_kept = _are_kept(batch, config, is_valid, groups.is_informative)
    kept = is_kept.flatten().nonzero().flatten().tolist()
    values = groups.values.flatten().tolist()
    assigned = AdvantageBatch(
        step=batch.step,
        scored=[batch.scored[index] for index in kept],
        advantages=[[values[index]] * len(batch.scored[index].sample.token_ids) for index in kept],
        num_groups=is_kept.shape[0],
        num_dropped_groups=int((~is_kept.any(dim=1)).sum()),
        findings=_overlong_findings(batch, config.overlong),
    )
    if credit is None:
        return assigned
    parts = torch.tensor([credit.parts(scored) for scored in batch.scored], dtype=torch.float64)
    by_part = [
        group_advantages(part.view(-1, size), is_valid=is_valid, kind=config.advantage).values
        for part in parts.view(-1, 2).unbind(dim=1)
    ]
    return _divided(assigned, [part.flatten()[kept] for part in by_part], credit)


def _are_kept(
    batch: ScoredBatch, config: AlgorithmConfig, is_valid: Tensor, is_informative: Tensor
) -> Tensor:
    """Which samples [groups, samples] are learned from."""
    is_kept = is_valid
    if config.advantage != "gae":
        is_kept = is_kept & (is_valid.sum(dim=1, keepdim=True) >= MIN_VALID_SAMPLES)
    if config.drop_uninformative_groups:
        is_kept = is_kept & is_informative[:, None]
    if config.overlong.mask_truncated:
        cut = torch.tensor([is_truncated(one.sample) for one in batch.scored], dtype=torch.bool)
        is_kept = is_kept & ~cut.view_as(is_valid)
    return is_kept


def _overlong_findings(batch: ScoredBatch, config: OverlongConfig) -> dict[str, list[float]]:
    valid = [scored for scored in batch.scored if scored.is_valid]
    found = {}
    if config.buffer_tokens > 0:
        found[names.OVERLONG_CHARGE_MEAN] = [scored.overlong_charge for scored in valid]
    if config.mask_truncated:
        found[names.OVERLONG_MASKED_FRAC] = [float(is_truncated(one.sample)) for one in valid]
    return found


def _divided(
    batch: AdvantageBatch, by_part: Sequence[Tensor], credit: SegmentCredit
) -> AdvantageBatch:
    """The batch with the advantages [samples] of context and answer on the tokens of each."""
    advantages, shares, is_whole = [], [], []
    pairs = zip(*(part.tolist() for part in by_part), strict=True)
    for scored, whole, (context, answer) in zip(batch.scored, batch.advantages, pairs, strict=True):
        is_context = credit.context_tokens(scored.sample)
        is_whole.append(float(is_context is None))
        if is_context is None:
            advantages.append(whole)
            continue
        advantages.append([context if one else answer for one in is_context])
        shares.append(statistics.fmean(is_context))
    return replace(
        batch,
        advantages=advantages,
        findings={
            **batch.findings,
            names.CREDIT_UNDIVIDED_FRAC: is_whole,
            names.CREDIT_CONTEXT_TOKENS_FRAC: shares,
        },
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
