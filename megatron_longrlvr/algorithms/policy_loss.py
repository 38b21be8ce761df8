"""Policy-gradient losses over the response tokens of a micro-batch.

With ratio rho = exp(policy - proximal) and advantage A, the ``clipped`` loss of a token is

    -A * min(rho, 1 + clip_high)                     A >= 0
    -A * min(max(rho, 1 - clip_low), dual_clip)      A < 0

which is PPO's min(rho A, clip(rho) A) with one bound on each side, and, for negative advantages,
the bound on the ratio that keeps a token the policy has come to like from dominating the step.

``gspo`` is the same with one ratio for all tokens of a response, exp(mean(policy - proximal)).
Every token carries its own share of the gradient, so a response may lie on several ranks; with
``normalizer=sequence_mean`` the sum is that of the paper. Its ratios stay within about 1e-3 of 1,
and so do its bounds: the paper has clip_low=3e-4 and clip_high=4e-4.

``cispo`` is -min(rho, 1 + clip_high) * A * log(policy), the factor held fixed: no token loses its
gradient, it only weighs no more than the bound. The paper sets no lower bound and neither is there
one here.

An entropy bonus and a divergence penalty may be added. Tokens are summed by ``loss_weights``,
which hold the global denominator: micro-batches and ranks add up to the loss of the step.

Shapes: N response tokens.

Papers: PPO, arXiv:1707.06347; DAPO, arXiv:2503.14476 (a higher upper bound); dual clip,
arXiv:1912.09729; GSPO, arXiv:2507.18071; CISPO, MiniMax-M1, arXiv:2506.13585.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

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

    mean_log_ratios: Tensor | None = None
    """[N] float32, without gradient: mean of policy - proximal over the whole response that the
    token belongs to. None unless the loss is ``gspo``."""


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
    whose gradient a bound has stopped (``cispo``: whose weight it has cut);
    ``behavior_proximal_kl`` is k3 of the proximal policy against the behaviour policy, an estimate
    of KL(behavior || proximal); ``kl`` is the recipe's estimator against the reference and is
    present with it.
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


def policy_loss(inputs: PolicyLossInput, config: AlgorithmConfig) -> PolicyLoss:
    """Sum the weighted token losses of a micro-batch and the statistics that go with them.

    Args:
        inputs: The response tokens of a micro-batch; N may be 0.
        config: Supplies the kind of loss, the bounds and the coefficients.
    """
    token_loss, ratio = LOSSES[config.loss](inputs, config)
    if config.entropy_coefficient > 0:
        token_loss = token_loss - config.entropy_coefficient * inputs.entropy
    sums = _clip_counts(ratio, inputs.advantages, config)
    sums["ratio"] = ratio.sum()
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


def _clipped(inputs: PolicyLossInput, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    ratio = _exp(inputs.policy_logprobs - inputs.proximal_logprobs)
    return -inputs.advantages * _bounded(ratio, inputs.advantages, config), ratio.detach()


def _gspo(inputs: PolicyLossInput, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    assert inputs.mean_log_ratios is not None, "gspo needs the means over whole responses"
    # 1 in value; its slope is what the mean of the response gives to each of its tokens.
    own = (inputs.policy_logprobs - inputs.policy_logprobs.detach()).exp()
    ratio = _exp(inputs.mean_log_ratios) * own
    return -inputs.advantages * _bounded(ratio, inputs.advantages, config), ratio.detach()


def _cispo(inputs: PolicyLossInput, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    ratio = _exp(inputs.policy_logprobs.detach() - inputs.proximal_logprobs)
    weight = ratio.clamp(max=1 + config.clip_high)
    return -weight * inputs.advantages * inputs.policy_logprobs, ratio


_TokenLoss = Callable[[PolicyLossInput, AlgorithmConfig], tuple[Tensor, Tensor]]

LOSSES: Mapping[str, _TokenLoss] = {"clipped": _clipped, "gspo": _gspo, "cispo": _cispo}
"""By the name in ``algorithm.loss``: loss of each token [N], and its ratio [N] without gradient."""


def mean_log_ratios(
    log_ratios: Tensor, segment_ids: Tensor, *, num_segments: int, group: ProcessGroup
) -> Tensor:
    """Mean of each token's response, whose tokens may be spread over context-parallel ranks.

    Args:
        log_ratios: [N] of this rank's tokens; read without gradient.
        segment_ids: [N] int64 below ``num_segments``: equal for tokens of one response.
        num_segments: The same on every rank.
        group: The ranks that share out the responses.

    Returns:
        [N] float32, without gradient.
    """
    # float64: thousands of terms of 1e-4 each, and a mean whose distance from 0 is the point.
    sums = torch.zeros(2, num_segments, dtype=torch.float64, device=log_ratios.device)
    sums[0].index_add_(0, segment_ids, log_ratios.detach().double())
    sums[1].index_add_(0, segment_ids, torch.ones_like(log_ratios, dtype=torch.float64))
    if num_segments > 0 and group.size() > 1:
        dist.all_reduce(sums, group=group)
    return (sums[0] / sums[1].clamp(min=1))[segment_ids].float()


def _exp(log_ratio: Tensor) -> Tensor:
    # An infinite ratio behind a bound still has the gradient 0 * inf, which is NaN.
    return log_ratio.clamp(min=-MAX_LOG_RATIO, max=MAX_LOG_RATIO).exp()


def _bounded(ratio: Tensor, advantages: Tensor, config: AlgorithmConfig) -> Tensor:
    rising = ratio.clamp(max=1 + config.clip_high)
    falling = ratio.clamp(min=1 - config.clip_low, max=config.dual_clip)
    return torch.where(advantages >= 0, rising, falling)


def _clip_counts(ratio: Tensor, advantages: Tensor, config: AlgorithmConfig) -> dict[str, Tensor]:
    if config.loss == "cispo":
        never = torch.zeros((), device=ratio.device)
        is_cut = ratio > 1 + config.clip_high
        return {
            "clipped_low": never,
            "clipped_high": is_cut.sum(dtype=torch.float32),
            "dual_clipped": never,
        }
    is_low = (advantages < 0) & (ratio < 1 - config.clip_low)
    is_high = (advantages > 0) & (ratio > 1 + config.clip_high)
    bound = float("inf") if config.dual_clip is None else config.dual_clip
    is_dual = (advantages < 0) & (ratio > bound)
    return {
        "clipped_low": is_low.sum(dtype=torch.float32),
        "clipped_high": is_high.sum(dtype=torch.float32),
        "dual_clipped": is_dual.sum(dtype=torch.float32),
    }
