"""Generalized advantage estimation: from token rewards and values to advantages and returns.

With reward r_t and value V_t of a response's token t (what the critic expected to earn before the
token was written), and V = 0 behind the last one, where a response ends for good:

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * lambda * A_{t+1}
    R_t     = A_t + V_t                            what the critic is trained towards

A response that was cut off at its longest length ends there, too: it earned what it earned.

Shapes: S responses, N tokens of the longest.

Paper: GAE, arXiv:1506.02438, equations 11 to 16.
"""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of padded responses.

    Args:
        rewards: [S, N], read up to each response's length.
        values: [S, N], likewise.
        lengths: [S] int64 tokens of each response.
        gamma: Discount of a token later, in [0, 1].
        lam: Share of what later errors of the critic tell, in [0, 1]: 0 trusts the critic for
            all but the next token, 1 takes what was earned and trusts it for nothing but the
            baseline.

    Returns:
        Two [S, N] float64 tensors; 0 behind each response's length.
    """
    is_real = torch.arange(rewards.shape[1], device=rewards.device) < lengths[:, None]
    # where(), not multiplication: padding may hold anything. float64: thousands of terms add up.
    known_rewards = torch.where(is_real, rewards.double(), 0.0)
    known_values = torch.where(is_real, values.double(), 0.0)
    next_values = torch.nn.functional.pad(known_values[:, 1:], (0, 1))
    deltas = known_rewards + gamma * next_values - known_values
    advantages = torch.zeros_like(deltas)
    later = torch.zeros_like(deltas[:, 0]) if deltas.shape[1] else deltas.sum(dim=1)
    for place in reversed(range(deltas.shape[1])):
        later = deltas[:, place] + gamma * lam * later
        advantages[:, place] = later
    return advantages, torch.where(is_real, advantages + known_values, 0.0)
