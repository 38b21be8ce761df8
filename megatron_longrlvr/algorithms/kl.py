"""Per-token estimates of the divergence of the policy from the frozen reference.

For a token drawn from the policy, with d = log reference - log policy, each estimates
KL(policy || reference) in nats:

    k1 = -d                 unbiased, either sign, large variance
    k2 = d**2 / 2           biased, never negative
    k3 = exp(d) - 1 - d     unbiased, never negative, small variance where d is small

Those are statements about the value. As a term of the loss, differentiated at a fixed token, the
three pull differently: the gradient of k1 is that of the log-probability alone and has mean 0,
that of k2 has the gradient of KL(policy || reference) as its mean, and that of k3 the gradient of
KL(reference || policy), each for tokens drawn from the current policy. k1 belongs in the reward.

Shapes: N tokens.

Source: J. Schulman, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from megatron_longrlvr.config.training import KlConfig

KlEstimator = Callable[[Tensor, Tensor], Tensor]
"""From policy and reference log-probabilities, [N] each, to [N]; differentiable in both."""

# Larger log-ratios count as this one and have no gradient: exp() of 89 overflows float32.
MAX_LOG_RATIO = 20.0


def k1(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate the divergence by the log-ratio itself."""
    return policy_logprobs - reference_logprobs


def k2(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate the divergence by half the squared log-ratio."""
    return (policy_logprobs - reference_logprobs).square() / 2


def k3(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate the divergence by the log-ratio with a control variate of mean 0."""
    log_ratio = (reference_logprobs - policy_logprobs).clamp(max=MAX_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio


ESTIMATORS: Mapping[str, KlEstimator] = {"k1": k1, "k2": k2, "k3": k3}
"""By the name in ``algorithm.kl.estimator``."""


def kl_in_reward(
    credit: Tensor,
    *,
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    config: KlConfig,
) -> Tensor:
    """Charge each token for its own divergence: ``credit_t - coefficient * kl_t``.

    Where the credit is an advantage, this is the immediate charge alone: a token does not answer
    for the divergence of the tokens after it. Where it is a token's reward that a critic is to
    estimate advantages from, it does. The charge enters no group mean and no std, and it carries no
    gradient.

    Args:
        credit: [N] float32, advantages or rewards.
        policy_logprobs: [N] float32, of the policy that is charged: the proximal one, before the
            step's first update. Where a position is no response token, both log-probabilities
            are 0 and the credit stays as it is.
        reference_logprobs: [N] float32.
        config: Supplies estimator and coefficient.

    Returns:
        [N] float32, without gradient.
    """
    estimate = ESTIMATORS[config.estimator](policy_logprobs.detach(), reference_logprobs.detach())
    return credit - config.coefficient * estimate
