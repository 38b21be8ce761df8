"""Group-relative advantages: a sample is judged against its siblings.

With reward r_i, group mean m, and m_i the mean of the other valid samples of the group:

    grpo           A_i = (r_i - m) / std            std of the group
    dr_grpo        A_i = r_i - m
    rloo           A_i = r_i - m_i                  = (r_i - m) * n / (n - 1)
    leave_one_out  A_i = (r_i - m_i) / std_i        std of the others

Every std is the sample std (n - 1). The first is bounded by (n - 1) / sqrt(n); the last has no
bound, because one sample may stand far off from siblings that are nearly equal.

Shapes: P prompts, G samples per prompt, n <= G valid samples of a group.

Papers: DeepSeekMath, arXiv:2402.03300 (grpo); Dr. GRPO, arXiv:2503.20783 (dr_grpo); Back to
Basics, arXiv:2402.14740 (rloo).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Rewards of a group that are equal but for rounding spread less than this; dividing by such a
# spread would turn the rounding into a full-size gradient.
_MIN_STD = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupAdvantages:
    """Advantages of a batch of groups."""

    values: Tensor
    """[P, G] float32; 0 for invalid samples and in groups that teach nothing, unless unknown."""

    is_informative: Tensor
    """[P] bool; False where fewer than 2 samples are valid or all valid rewards are equal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Groups:
    rewards: Tensor
    """[P, G] float64; anything, NaN included, for invalid samples."""

    is_valid: Tensor
    """[P, G] bool."""

    mean: Tensor
    """[P, 1] float64, of the valid samples."""

    std: Tensor
    """[P, 1] float64, of the valid samples; 0 where fewer than 2 are valid."""


def group_advantages(rewards: Tensor, *, is_valid: Tensor, kind: str) -> GroupAdvantages:
    """Compute advantages within each group.

    Args:
        rewards: [P, G] floating point; read only where ``is_valid``, may be NaN elsewhere.
        is_valid: [P, G] bool; other samples get no advantage and do not move their siblings.
        kind: A key of :data:`ADVANTAGES`; what ``algorithm.advantage`` of a recipe names.

    Raises:
        ValueError: The two tensors do not share one [P, G] shape.
    """
    if rewards.ndim != 2 or rewards.shape != is_valid.shape:
        raise ValueError(
            "rewards and is_valid must share one [prompts, samples] shape, "
            f"got {tuple(rewards.shape)} and {tuple(is_valid.shape)}"
        )
    # float64: the mean of equal rewards must come out as that reward to well below _MIN_STD.
    precise = rewards.double()
    mean, std = _mean_and_std(precise, is_valid)
    is_informative = std > _MIN_STD
    values = ADVANTAGES[kind](_Groups(rewards=precise, is_valid=is_valid, mean=mean, std=std))
    return GroupAdvantages(
        values=torch.where(is_valid & is_informative, values, 0.0).float(),
        is_informative=is_informative.squeeze(1),
    )


def unknown_advantages(rewards: Tensor, *, is_valid: Tensor) -> GroupAdvantages:
    """NaN for every sample, where a critic has yet to say; arguments as above."""
    _, std = _mean_and_std(rewards.double(), is_valid)
    return GroupAdvantages(
        values=torch.full_like(rewards, torch.nan, dtype=torch.float32),
        is_informative=(std > _MIN_STD).squeeze(1),
    )


def _grpo(groups: _Groups) -> Tensor:
    return (groups.rewards - groups.mean) / groups.std.clamp(min=_MIN_STD)


def _dr_grpo(groups: _Groups) -> Tensor:
    return groups.rewards - groups.mean


def _rloo(groups: _Groups) -> Tensor:
    mean_of_others, _ = _moments_of_others(groups)
    return groups.rewards - mean_of_others


def _leave_one_out(groups: _Groups) -> Tensor:
    mean_of_others, std_of_others = _moments_of_others(groups)
    # Equal others (or a single one) have no spread to measure by; the group has.
    std = torch.where(std_of_others > _MIN_STD, std_of_others, groups.std.clamp(min=_MIN_STD))
    return (groups.rewards - mean_of_others) / std


ADVANTAGES: Mapping[str, Callable[[_Groups], Tensor]] = {
    "grpo": _grpo,
    "dr_grpo": _dr_grpo,
    "rloo": _rloo,
    "leave_one_out": _leave_one_out,
}
"""By the name in ``algorithm.advantage``. Values of invalid samples and of groups without
spread mean nothing and are replaced."""


def _moments_of_others(groups: _Groups) -> tuple[Tensor, Tensor]:
    """Return [P, G] mean and std of the valid siblings of each sample, itself left out."""
    num_samples = groups.rewards.shape[1]
    is_self = torch.eye(num_samples, dtype=torch.bool, device=groups.rewards.device)
    # Summed over the siblings instead of taken out of the group's sums: the difference of two
    # nearly equal sums would leave rounding where the others' spread is 0.
    is_other = groups.is_valid[:, None, :] & ~is_self
    mean, std = _mean_and_std(groups.rewards[:, None, :].expand_as(is_other), is_other)
    return mean.squeeze(-1), std.squeeze(-1)


def _mean_and_std(values: Tensor, is_counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample std over the last dimension, kept as size 1; 0 where undefined."""
    num_counted = is_counted.sum(dim=-1, keepdim=True)
    # where(), not multiplication: 0 * NaN is NaN.
    known = torch.where(is_counted, values, 0.0)
    mean = known.sum(dim=-1, keepdim=True) / num_counted.clamp(min=1)
    centred = torch.where(is_counted, values - mean, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / (num_counted - 1).clamp(min=1)
    return mean, variance.sqrt()
