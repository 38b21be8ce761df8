"""The critic's loss over the response tokens of a micro-batch.

With value V, value V_old before the step's first update and return R, the loss of a token is

    1/2 * max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)

which stops the gradient of a value that has moved by more than c towards its return, or, without a
bound, 1/2 * (V - R)^2. Tokens are summed by ``loss_weights``, which hold the global denominator.

Shapes: N response tokens.

Source: the clipped value loss of OpenAI baselines' PPO2; not in the PPO paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SUM_NAMES = ("clipped", "square_error")
"""Sums over tokens that a micro-batch reports: tokens whose gradient the bound has stopped, and
squared distances from the return."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueLossInput:
    """What the loss reads, one entry per response token; only the values carry a gradient."""

    values: Tensor
    """[N] float32, with gradient."""

    old_values: Tensor
    """[N] float32, before the step's first update."""

    returns: Tensor
    """[N] float32."""

    loss_weights: Tensor
    """[N] float32."""


def value_loss(inputs: ValueLossInput, *, clip: float | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the token losses [], and the sums of :data:`SUM_NAMES` without gradient.

    Args:
        inputs: N may be 0.
        clip: Furthest that a value may move from its old one, in units of reward; None for no
            bound.
    """
    errors = (inputs.values - inputs.returns).square()
    worst, is_clipped = errors, torch.zeros_like(errors, dtype=torch.bool)
    if clip is not None:
        moved = (inputs.values - inputs.old_values).clamp(min=-clip, max=clip)
        bounded = (inputs.old_values + moved - inputs.returns).square()
        worst, is_clipped = torch.maximum(errors, bounded), bounded > errors
    sums = {
        "clipped": is_clipped.sum(dtype=torch.float32),
        "square_error": errors.detach().sum(),
    }
    return (inputs.loss_weights * worst).sum() / 2, sums
