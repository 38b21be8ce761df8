"""The learner: owns the trainable policy on this rank and takes its optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.policy_loss import sum_names
from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.expert_load import LoadCounter, charging
from megatron_longrlvr.model.local_batch import LocalBatch
from megatron_longrlvr.model.objectives import likelihood, policy_gradient
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.schedule import Objective, run_micro_batches
from megatron_longrlvr.model.trainee import Trainee
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.stages import PackedBatch, TrainBatch, UpdateStats

# What a sum over tokens is called once it is divided by their number.
_MEAN_NAMES = {
    "ratio": "ratio_mean",
    "entropy": "entropy_mean",
    "clipped_low": "clipped_low_frac",
    "clipped_high": "clipped_high_frac",
    "dual_clipped": "dual_clipped_frac",
}


@dataclass(frozen=True, kw_only=True)
class LearnerSettings:
    """How the policy is trained."""

    optimizer: OptimizerConfig
    num_optimizer_steps: int
    """Length of the run, for the decay of the learning rate."""

    temperature: float
    """Sampling temperature; log-probabilities are taken under it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradients:
    """What is known of an update once its gradients stand in the learner's buffers."""

    sums: Mapping[str, float]
    """``loss`` and statistics by name, over all ranks."""

    num_global_response_tokens: int
    router: Mapping[str, float]
    """How tokens fell on experts; empty for a model without."""


class Learner(Trainee):
    """Computes log-probabilities and takes optimizer steps; every rank calls it alike."""

    def __init__(
        self, policy: Policy, settings: LearnerSettings, *, reference: Policy | None = None
    ) -> None:
        super().__init__(
            policy, settings.optimizer, num_optimizer_steps=settings.num_optimizer_steps
        )
        self.policy = policy
        self.reference = reference
        self.settings = settings

    def add_logprobs(self, packed: PackedBatch, config: AlgorithmConfig) -> TrainBatch:
        """Add what the loss compares against: proximal and, under a KL term, reference."""
        micro_batches, temperature = packed.micro_batches, self.settings.temperature
        load = None
        if config.proximal == "behavior":
            proximal = [micro_batch.behavior_logprobs for micro_batch in micro_batches]
        else:
            proximal, load = self._logprobs_and_load(packed)
        reference = None
        if self.reference is not None:
            reference = self.reference.logprobs(micro_batches, temperature=temperature)
        return TrainBatch(
            packed=packed,
            proximal_logprobs=proximal,
            reference_logprobs=reference,
            expert_load=load,
        )

    def update(self, batch: TrainBatch, config: AlgorithmConfig) -> UpdateStats:
        """Take one optimizer step on the policy-gradient loss.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank; weights and optimizer
                are as before the call, on every rank.
        """
        return self.apply_gradients(self.accumulate_gradients(batch, config))

    def accumulate_gradients(self, batch: TrainBatch, config: AlgorithmConfig) -> Gradients:
        """Forward and backward of the policy-gradient loss, from gradients of 0.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank; every rank raises it.
        """
        has_reference = batch.reference_logprobs is not None
        names = ("loss", *sum_names(has_reference=has_reference))
        objective = policy_gradient(batch, config)
        return self._gradients(batch.packed, objective, names=names, load=batch.expert_load)

    def apply_gradients(self, gradients: Gradients) -> UpdateStats:
        """Take the optimizer step for which gradients were accumulated just before."""
        step = self._apply(gradients.sums)
        tokens = gradients.num_global_response_tokens
        means = {
            # The loss holds its denominator already.
            _MEAN_NAMES.get(name, name): total / (1 if name == "loss" else tokens)
            for name, total in step.sums.items()
        }
        if "clipped_low_frac" in means:
            means["clipped_frac"] = means["clipped_low_frac"] + means["clipped_high_frac"]
        return UpdateStats(
            version=self.version,
            metrics={**means, **gradients.router, "grad_norm": step.grad_norm, "lr": step.lr},
        )

    def imitate(self, packed: PackedBatch) -> UpdateStats:
        """Take one optimizer step on the likelihood of demonstrations.

        Raises:
            NonFiniteUpdate: As in :meth:`update`.
        """
        objective, names = likelihood(packed.micro_batches), ("loss", "entropy")
        return self.apply_gradients(self._gradients(packed, objective, names=names, load=None))

    def _logprobs_and_load(self, packed: PackedBatch) -> tuple[list[Tensor], Tensor | None]:
        """Log-probabilities, and the load of the experts where a loss of the router needs it."""
        temperature = self.settings.temperature
        if not self._charges_routers:
            return self.policy.logprobs(packed.micro_batches, temperature=temperature), None
        with LoadCounter(self.policy) as counter:
            logprobs = self.policy.logprobs(packed.micro_batches, temperature=temperature)
        return logprobs, counter.total().shares()

    def _load(self, packed: PackedBatch) -> Tensor:
        """Load of the experts, in a pass of its own where a loss depends on it."""
        if self.policy.model.router.balance_coefficient > 0:
            _, load = self._logprobs_and_load(packed)
            assert load is not None, "counted where losses are charged"
            return load
        spec = self.policy.spec
        assert spec.experts is not None, "losses are charged for experts"
        return torch.zeros(spec.num_layers, spec.experts.num_experts, device=device())

    @property
    def _charges_routers(self) -> bool:
        router = self.policy.model.router
        has_losses = router.balance_coefficient > 0 or router.z_coefficient > 0
        return has_losses and self.policy.spec.experts is not None

    def _gradients(
        self,
        packed: PackedBatch,
        objective: Objective,
        *,
        names: Sequence[str],
        load: Tensor | None,
    ) -> Gradients:
        if load is None and self._charges_routers:
            load = self._load(packed)
        counter = LoadCounter(self.policy)

        def run(local: Sequence[LocalBatch]) -> Sequence[Mapping[str, Tensor]]:
            return run_micro_batches(
                self.wrapped,
                local,
                objective,
                settings=self.policy.settings(self.settings.temperature),
                forward_only=False,
            )

        with counter, charging(self.policy, load, num_global_tokens=packed.num_global_tokens):
            sums = self._accumulate(packed, run, names=names)
        has_experts = self.policy.spec.experts is not None
        return Gradients(
            sums=sums,
            num_global_response_tokens=packed.num_global_response_tokens,
            router=counter.total().metrics() if has_experts else {},
        )
