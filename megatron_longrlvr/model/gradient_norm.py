"""The size of a gradient that nobody follows."""

from __future__ import annotations

from dataclasses import replace

from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.model.objectives import policy_gradient
from megatron_longrlvr.model.schedule import run_micro_batches
from megatron_longrlvr.stages import TrainBatch


def gradient_norm(learner: Learner, batch: TrainBatch, config: AlgorithmConfig) -> float:
    """Norm of the policy gradient of a batch; every rank calls this.

    Entropy bonus and divergence penalty are left out: they depend on no reward. Weights, optimizer
    and random numbers are as before; the gradient buffers are not, and every update clears them.

    Args:
        learner: Whose policy is asked.
        batch: With advantages; its reference log-probabilities are not read.
        config: Supplies the kind of loss and its bounds.

    Returns:
        Over all parameters and ranks, before clipping.
    """
    rewarded = config.model_copy(
        update={
            "entropy_coefficient": 0.0,
            "kl": config.kl.model_copy(update={"coefficient": 0.0}),
        }
    )
    for chunk in learner.wrapped:
        chunk.zero_grad_buffer()
    learner.optimizer.zero_grad()
    run_micro_batches(
        learner.wrapped,
        learner.policy.localize(batch.packed.micro_batches),
        policy_gradient(replace(batch, reference_logprobs=None), rewarded),
        settings=learner.policy.settings(learner.settings.temperature),
        forward_only=False,
    )
    learner.optimizer.prepare_grads()
    return float(learner.optimizer.get_grad_norm())
