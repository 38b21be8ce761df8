"""What a response near the longest allowed length costs.

With the longest response of M tokens and a buffer of B below it, a response of n tokens is charged

    0                       n <= M - B
    (n - (M - B)) / B       M - B < n <= M

times the recipe's penalty, taken off its reward. Independently of that, responses that were cut at
M may be left out of the loss: whether they would have come to a right answer is not known.

Paper: DAPO, arXiv:2503.14476, section 3.4 (soft overlong punishment, overlong filtering).
"""

from __future__ import annotations

from dataclasses import replace

from megatron_longrlvr.config.training import OverlongConfig
from megatron_longrlvr.stages import FinishReason, Sample, ScoredBatch


def overlong_charge(num_tokens: int, *, max_tokens: int, buffer_tokens: int) -> float:
    """Share of the penalty, from 0 to 1, of a response of ``num_tokens``; 0 without a buffer.

    A response cannot be longer than ``max_tokens``, where the paper has the whole penalty, too.
    """
    if buffer_tokens == 0:
        return 0.0
    beyond = num_tokens - (max_tokens - buffer_tokens)
    return min(max(beyond / buffer_tokens, 0.0), 1.0)


def charge_overlong(batch: ScoredBatch, config: OverlongConfig, *, max_tokens: int) -> ScoredBatch:
    """Take the charge off each reward; the parts of the reward stay what they were.

    Args:
        batch: This rank's scored samples.
        config: Supplies buffer and penalty.
        max_tokens: Longest response, ``rollout.max_response_tokens``.
    """
    if config.buffer_tokens == 0:
        return batch
    charges = [
        config.penalty
        * overlong_charge(
            len(scored.sample.token_ids),
            max_tokens=max_tokens,
            buffer_tokens=config.buffer_tokens,
        )
        for scored in batch.scored
    ]
    return replace(
        batch,
        scored=[
            replace(scored, reward=scored.reward - charge, overlong_charge=charge)
            for scored, charge in zip(batch.scored, charges, strict=True)
        ],
    )


def is_truncated(sample: Sample) -> bool:
    """Whether a response was cut at the longest length."""
    return sample.finish_reason is FinishReason.LENGTH
