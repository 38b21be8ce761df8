"""What a policy's forward pass is run for: the policy-gradient loss, or likelihood.

Shapes: T tokens of a micro-batch, N of them predicted on this rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.kl import kl_in_reward
from megatron_longrlvr.algorithms.policy_loss import (
    PolicyLossInput,
    mean_log_ratios,
    policy_loss,
)
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.local_batch import LocalBatch
from megatron_longrlvr.model.schedule import Objective
from megatron_longrlvr.stages import MicroBatch, TrainBatch


def policy_gradient(batch: TrainBatch, config: AlgorithmConfig) -> Objective:
    """The policy-gradient loss of a batch.

    Micro-batches beyond the batch's own are placeholders without response tokens.
    """

    def objective(
        index: int, local: LocalBatch, logprobs: Tensor, entropy: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = _charge_divergence(_loss_input(batch, index, local, logprobs, entropy), config)
        if config.loss == "gspo":
            inputs = _with_means(inputs, batch, index, local)
        result = policy_loss(inputs, config)
        return result.loss, {"loss": result.loss.detach(), **result.sums}

    return objective


def likelihood(micro_batches: Sequence[MicroBatch]) -> Objective:
    """Weighted negative log-likelihood of demonstrations."""

    def objective(
        index: int, local: LocalBatch, logprobs: Tensor, entropy: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if index >= len(micro_batches):
            return logprobs.sum(), {"loss": logprobs.sum().detach(), "entropy": entropy.sum()}
        weights = micro_batches[index].loss_weights.to(logprobs.device)[local.target_index]
        loss = -(weights * logprobs).sum()
        return loss, {"loss": loss.detach(), "entropy": entropy.detach().sum()}

    return objective


def _charge_divergence(inputs: PolicyLossInput, config: AlgorithmConfig) -> PolicyLossInput:
    # With a critic the charge is in the rewards that its advantages come from.
    is_charged = config.kl.place == "reward" and config.advantage != "gae"
    if inputs.reference_logprobs is None or not is_charged:
        return inputs
    advantages = kl_in_reward(
        inputs.advantages,
        policy_logprobs=inputs.proximal_logprobs,
        reference_logprobs=inputs.reference_logprobs,
        config=config.kl,
    )
    return replace(inputs, advantages=advantages)


def _with_means(
    inputs: PolicyLossInput, batch: TrainBatch, index: int, local: LocalBatch
) -> PolicyLossInput:
    is_placeholder = index >= len(batch.packed.micro_batches)
    lengths = (
        [] if is_placeholder else [s.num_tokens for s in batch.packed.micro_batches[index].segments]
    )
    segment_of_token = torch.repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    means = mean_log_ratios(
        inputs.policy_logprobs - inputs.proximal_logprobs,
        segment_of_token.to(local.target_index.device)[local.target_index],
        num_segments=len(lengths),
        group=local.attention.cp_group,
    )
    return replace(inputs, mean_log_ratios=means)


def _loss_input(
    batch: TrainBatch, index: int, local: LocalBatch, logprobs: Tensor, entropy: Tensor
) -> PolicyLossInput:
    if index >= len(batch.packed.micro_batches):
        nothing = logprobs.detach()
        return PolicyLossInput(
            policy_logprobs=logprobs,
            proximal_logprobs=nothing,
            behavior_logprobs=nothing,
            advantages=nothing,
            loss_weights=nothing,
            entropy=entropy,
            reference_logprobs=None if batch.reference_logprobs is None else nothing,
        )
    micro_batch = batch.packed.micro_batches[index]
    reference = batch.reference_logprobs

    def at_targets(values: Tensor) -> Tensor:
        return values.to(logprobs.device)[local.target_index]

    return PolicyLossInput(
        policy_logprobs=logprobs,
        proximal_logprobs=at_targets(batch.proximal_logprobs[index]),
        behavior_logprobs=at_targets(micro_batch.behavior_logprobs),
        advantages=at_targets(micro_batch.advantages),
        loss_weights=at_targets(micro_batch.loss_weights),
        entropy=entropy,
        reference_logprobs=None if reference is None else at_targets(reference[index]),
    )
