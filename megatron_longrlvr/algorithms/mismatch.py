"""The gap between the engine's log-probabilities and the learner's for the same tokens.

A gap is learner minus engine, in nats: proximal minus behaviour log-probability. It would be 0 if
both computed the same function exactly, so its size says how far off-policy a step silently is,
and where it sits says why.

Corrections follow truncated importance sampling: a token's advantage is weighted by
min(exp(gap), bound), which undoes the engine's distribution with bounded variance.

Shapes: T tokens of a micro-batch, N response tokens of a sample.

Paper: truncated importance sampling for the gap between engine and learner, F. Yao et al., "Your
Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.kl import MAX_LOG_RATIO, k3
from megatron_longrlvr.config.mismatch import MismatchConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import MicroBatch, TrainBatch

THRESHOLDS = (0.01, 0.1, 1.0)
"""Absolute gaps (nats) above which tokens are counted."""

_NUM_OVERALL = 4 + len(THRESHOLDS)


@dataclass(frozen=True, kw_only=True, slots=True)
class GapSums:
    """Sums over tokens, which add up over micro-batches and ranks, and the largest gap."""

    overall: Tensor
    """[7] float64: tokens, gap, absolute gap, k3, and tokens above each threshold."""

    deciles: Tensor
    """[10, 2] float64: tokens and absolute gap by the tenth of its response a token stands in."""

    prompts: Tensor
    """[5, 2] float64: the same by the length of the prompt."""

    largest: float

    def __add__(self, other: GapSums) -> GapSums:
        return GapSums(
            overall=self.overall + other.overall,
            deciles=self.deciles + other.deciles,
            prompts=self.prompts + other.prompts,
            largest=max(self.largest, other.largest),
        )

    @classmethod
    def zero(cls) -> GapSums:
        """Of no tokens."""
        return cls(
            overall=torch.zeros(_NUM_OVERALL, dtype=torch.float64),
            deciles=torch.zeros(names.NUM_DECILES, 2, dtype=torch.float64),
            prompts=torch.zeros(len(names.PROMPT_BOUNDS), 2, dtype=torch.float64),
            largest=0.0,
        )

    @property
    def abs_mean(self) -> float:
        """Mean absolute gap (nats); 0 without tokens."""
        return float(self.overall[2] / self.overall[0].clamp(min=1))

    def metrics(self) -> dict[str, float]:
        """Means by metric name; what no token fell into is left out."""
        count, gap, absolute, divergence, *above = self.overall.tolist()
        if count == 0:
            return {}
        found = {
            names.MISMATCH_GAP_MEAN: gap / count,
            names.MISMATCH_GAP_ABS_MEAN: absolute / count,
            names.MISMATCH_GAP_MAX: self.largest,
            names.MISMATCH_KL: divergence / count,
        }
        for threshold, number in zip(THRESHOLDS, above, strict=True):
            found[names.mismatch_above_frac(threshold)] = number / count
        for decile, (number, total) in enumerate(self.deciles.tolist()):
            if number:
                found[names.mismatch_decile(decile)] = total / number
        for lowest, (number, total) in zip(names.PROMPT_BOUNDS, self.prompts.tolist(), strict=True):
            if number:
                found[names.mismatch_prompt(lowest)] = total / number
        return found


def measure_gap(batch: TrainBatch) -> GapSums:
    """Sum the gaps of a batch's response tokens."""
    total = GapSums.zero()
    for micro_batch, gap in _gaps(batch):
        for places, prompt_tokens in samples_of(micro_batch):
            behavior = micro_batch.behavior_logprobs[places]
            total = total + _sample_sums(gap[places], behavior, prompt_tokens)
    return total


def correct_for_mismatch(batch: TrainBatch, config: MismatchConfig) -> TrainBatch:
    """Weight advantages and leave out samples, as configured; denominators stay."""
    if config.importance == "none" and config.mask_sample_above is None:
        return batch
    micro_batches = [_corrected(micro_batch, gap, config) for micro_batch, gap in _gaps(batch)]
    return replace(batch, packed=replace(batch.packed, micro_batches=micro_batches))


def samples_of(micro_batch: MicroBatch) -> Iterator[tuple[Tensor, int]]:
    """Where each sample's response stands: [N] int64 places, and the length of its prompt."""
    start = 0
    for segment in micro_batch.segments:
        stop = start + segment.num_tokens
        places = start + micro_batch.is_response[start:stop].nonzero().squeeze(1)
        if len(places):
            before = 0
            if segment.continues is not None:
                before = micro_batch.segments[segment.continues].num_tokens
            yield places, before + segment.num_tokens - len(places)
        start = stop


def _gaps(batch: TrainBatch) -> Iterator[tuple[MicroBatch, Tensor]]:
    for micro_batch, proximal in zip(
        batch.packed.micro_batches, batch.proximal_logprobs, strict=True
    ):
        behavior = micro_batch.behavior_logprobs.to(proximal.device)
        yield (
            micro_batch,
            torch.where(micro_batch.is_response.to(proximal.device), proximal - behavior, 0.0).to(
                micro_batch.behavior_logprobs.device
            ),
        )


def _sample_sums(gap: Tensor, behavior: Tensor, prompt_tokens: int) -> GapSums:
    sums, size = GapSums.zero(), len(gap)
    wide = gap.double().cpu()
    absolute = wide.abs()
    divergence = k3(behavior, behavior + gap).double().sum()
    above = [(absolute > threshold).sum() for threshold in THRESHOLDS]
    parts = [torch.tensor(size), wide.sum(), absolute.sum(), divergence.cpu(), *above]
    sums.overall.copy_(torch.stack([part.double() for part in parts]))
    decile = torch.arange(size) * names.NUM_DECILES // size
    sums.deciles[:, 0] += torch.bincount(decile, minlength=names.NUM_DECILES)
    sums.deciles[:, 1] += torch.bincount(decile, weights=absolute, minlength=names.NUM_DECILES)
    bucket = names.PROMPT_BOUNDS.index(names.prompt_bucket(prompt_tokens))
    sums.prompts[bucket] += torch.tensor([float(size), float(absolute.sum())])
    return replace(sums, largest=float(absolute.max()))


def _corrected(micro_batch: MicroBatch, gap: Tensor, config: MismatchConfig) -> MicroBatch:
    advantages, weights = micro_batch.advantages, micro_batch.loss_weights
    if config.importance == "truncated":
        ratio = gap.clamp(min=-MAX_LOG_RATIO, max=MAX_LOG_RATIO).exp()
        advantages = advantages * ratio.clamp(max=config.truncate_at)
    if config.mask_sample_above is not None:
        weights = weights.clone()
        for places in _far_samples(micro_batch, gap, config.mask_sample_above):
            weights[places] = 0.0
    return replace(micro_batch, advantages=advantages, loss_weights=weights)


def _far_samples(micro_batch: MicroBatch, gap: Tensor, limit: float) -> Sequence[Tensor]:
    return [
        places for places, _ in samples_of(micro_batch) if float(gap[places].abs().mean()) > limit
    ]
