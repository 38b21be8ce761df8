"""The clipped policy-gradient loss over the response tokens of a micro-batch.

With ratio rho = exp(policy - proximal) and advantage A, a token's loss is

    -A * min(rho, 1 + clip_high)                     A >= 0
    -A * min(max(rho, 1 - clip_low), dual_clip)      A < 0

which is PPO's min(rho A, clip(rho) A) with one bound on each side, and, for negative advantages,
the bound on the ratio that keeps a token the policy has come to like from dominating the step.
An entropy bonus and a divergence penalty may be added. Tokens are summed by ``loss_weights``,
which hold the global denominator: micro-batches and ranks add up to the loss of the step.

Shapes: N response tokens.

Papers: PPO, arXiv:1707.06347; DAPO, arXiv:2503.14476 (a higher upper bound); dual clip,
arXiv:1912.09729.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.kl import ESTIMATORS, MAX_LOG_RATIO, k3
from megatron_longrlvr.config.training import AlgorithmConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLossInput:
    """What the loss reads, one entry per response token; only two fields carry a gradient."""

    policy_logprobs: Tensor
    """[N] float32, with gradient."""

    proximal_logprobs: Tensor
    """[N] float32."""

    behavior_logprobs: Tensor
    """[N] float32; measured against, not part of the loss."""

    advantages: Tensor
    """[N] float32."""

    loss_weights: Tensor
    """[N] float32."""

    entropy: Tensor
    """[N] float32, nats; with gradient where the entropy coefficient is above 0."""

    reference_logprobs: Tensor | None
    """[N] float32; None when the divergence penalty is off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLoss:
    """A micro-batch's share of the loss of a step."""

    loss: Tensor
    """[] float32, with gradient."""

    sums: dict[str, Tensor]
    """[] float32 each, without gradient: sums over the N tokens, to be divided by the global
    number of response tokens. Keys are those of :func:`sum_names`."""


def sum_names(*, has_reference: bool) -> tuple[str, ...]:
    """Name the sums a micro-batch reports, for a rank that has none to report zeros under.

    ``ratio``, ``entropy``; ``clipped_low``, ``clipped_high`` and ``dual_clipped`` count tokens
    whose gradient a bound has stopped; ``behavior_proximal_kl`` is k3 of the proximal policy
    against the behaviour policy, an estimate of KL(behavior || proximal); ``kl`` is the recipe's
    estimator against the reference and is present with it.
    """
    names = (
        "ratio",
        "clipped_low",
        "clipped_high",
        "dual_clipped",
        "entropy",
        "behavior_proximal_kl",
    )
    return (*names, "kl") if has_reference else names


def clipped_policy_loss(inputs: PolicyLossInput, config: AlgorithmConfig) -> PolicyLoss:
    """Sum the weighted token losses of a micro-batch and the statistics that go with them.

    Args:
        inputs: The response tokens of a micro-batch; N may be 0.
        config: Supplies the bounds and the coefficients.
    """
    ratio = _ratio(inputs)
    token_loss = -inputs.advantages * _bounded(ratio, inputs.advantages, config)
    if config.entropy_coefficient > 0:
        token_loss = token_loss - config.entropy_coefficient * inputs.entropy
    sums = _clip_counts(ratio.detach(), inputs.advantages, config)
    sums["ratio"] = ratio.detach().sum()
    sums["entropy"] = inputs.entropy.detach().sum()
    sums["behavior_proximal_kl"] = k3(inputs.behavior_logprobs, inputs.proximal_logprobs).sum()
    if inputs.reference_logprobs is not None:
        kl = ESTIMATORS[config.kl.estimator](inputs.policy_logprobs, inputs.reference_logprobs)
        sums["kl"] = kl.detach().sum()
        if config.kl.place == "loss":
            token_loss = token_loss + config.kl.coefficient * kl
    else:
        assert config.kl.coefficient == 0, "a divergence penalty needs reference log-probabilities"
    return PolicyLoss(loss=(inputs.loss_weights * token_loss).sum(), sums=sums)


def _ratio(inputs: PolicyLossInput) -> Tensor:
    log_ratio = inputs.policy_logprobs - inputs.proximal_logprobs
    # An infinite ratio behind a bound still has the gradient 0 * inf, which is NaN.
    return log_ratio.clamp(min=-MAX_LOG_RATIO, max=MAX_LOG_RATIO).exp()


def _bounded(ratio: Tensor, advantages: Tensor, config: AlgorithmConfig) -> Tensor:
    rising = ratio.clamp(max=1 + config.clip_high)
    falling = ratio.clamp(min=1 - config.clip_low, max=config.dual_clip)
    return torch.where(advantages >= 0, rising, falling)


def _clip_counts(ratio: Tensor, advantages: Tensor, config: AlgorithmConfig) -> dict[str, Tensor]:
    is_low = (advantages < 0) & (ratio < 1 - config.clip_low)
    is_high = (advantages > 0) & (ratio > 1 + config.clip_high)
    bound = float("inf") if config.dual_clip is None else config.dual_clip
    is_dual = (advantages < 0) & (ratio > bound)
    return {
        "clipped_low": is_low.sum(dtype=torch.float32),
        "clipped_high": is_high.sum(dtype=torch.float32),
        "dual_clipped": is_dual.sum(dtype=torch.float32),
    }
