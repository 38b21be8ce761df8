"""The learner: owns the trainable policy on this rank and takes its optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.algorithms.policy_loss import sum_names
from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import NonFiniteUpdate
from megatron_longrlvr.model.objectives import likelihood, policy_gradient
from megatron_longrlvr.model.optimizer import (
    build_optimizer,
    gradients_are_finite,
    learning_rate,
    set_learning_rate,
    wrap_for_training,
)
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.schedule import Objective, run_micro_batches
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.stages import (
    MicroBatch,
    PackedBatch,
    PolicyVersion,
    TrainBatch,
    UpdateStats,
)

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


class Learner:
    """Computes log-probabilities and takes optimizer steps; every rank calls it alike."""

    def __init__(
        self, policy: Policy, settings: LearnerSettings, *, reference: Policy | None = None
    ) -> None:
        self.policy = policy
        self.reference = reference
        self.version = PolicyVersion(0)
        self.settings = settings
        self.wrapped = wrap_for_training(
            policy.chunks, policy.groups, is_distributed=settings.optimizer.distributed
        )
        self.optimizer = build_optimizer(self.wrapped, settings.optimizer, dtype=policy.dtype)

    def add_logprobs(self, packed: PackedBatch, config: AlgorithmConfig) -> TrainBatch:
        """Add what the loss compares against: proximal and, under a KL term, reference."""
        micro_batches, temperature = packed.micro_batches, self.settings.temperature
        if config.proximal == "behavior":
            proximal = [micro_batch.behavior_logprobs for micro_batch in micro_batches]
        else:
            proximal = self.policy.logprobs(micro_batches, temperature=temperature)
        reference = None
        if self.reference is not None:
            reference = self.reference.logprobs(micro_batches, temperature=temperature)
        return TrainBatch(packed=packed, proximal_logprobs=proximal, reference_logprobs=reference)

    def update(self, batch: TrainBatch, config: AlgorithmConfig) -> UpdateStats:
        """Take one optimizer step on the policy-gradient loss.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank; weights and optimizer
                are as before the call, on every rank.
        """
        packed = batch.packed
        has_reference = batch.reference_logprobs is not None
        names = ("loss", *sum_names(has_reference=has_reference))
        return self._step(packed, policy_gradient(batch, config), names=names)

    def imitate(self, packed: PackedBatch) -> UpdateStats:
        """Take one optimizer step on the likelihood of demonstrations.

        Raises:
            NonFiniteUpdate: As in :meth:`update`.
        """
        return self._step(packed, likelihood(packed.micro_batches), names=("loss", "entropy"))

    def _step(
        self, packed: PackedBatch, objective: Objective, *, names: Sequence[str]
    ) -> UpdateStats:
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        local = self.policy.localize(packed.micro_batches)
        results = run_micro_batches(
            self.wrapped,
            local,
            objective,
            settings=self.policy.settings(self.settings.temperature),
            forward_only=False,
        )
        self._refuse_non_finite(packed, results)
        lr = learning_rate(
            self.settings.optimizer,
            step=self.version,
            num_steps=self.settings.num_optimizer_steps,
        )
        set_learning_rate(self.optimizer, lr)
        _, grad_norm, _ = self.optimizer.step()
        self.version = PolicyVersion(self.version + 1)
        totals = self._global_sums(results, names)
        means = {
            # The loss holds its denominator already.
            _MEAN_NAMES.get(name, name): total
            / (1 if name == "loss" else packed.num_global_response_tokens)
            for name, total in totals.items()
        }
        if "clipped_low_frac" in means:
            means["clipped_frac"] = means["clipped_low_frac"] + means["clipped_high_frac"]
        return UpdateStats(
            version=self.version, metrics={**means, "grad_norm": float(grad_norm), "lr": lr}
        )

    def _refuse_non_finite(
        self, packed: PackedBatch, results: Sequence[Mapping[str, Tensor]]
    ) -> None:
        bad = [index for index, result in enumerate(results) if not torch.isfinite(result["loss"])]
        is_fine = not bad and gradients_are_finite(self.wrapped)
        # Every rank has just finished the same schedule; all must agree to step or not to step.
        flag = torch.tensor(float(is_fine), device=device())
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        if flag > 0:
            return
        where = "on another rank"
        if not is_fine:
            suspects = [packed.micro_batches[i] for i in bad if i < len(packed.micro_batches)]
            where = _name_samples(suspects or packed.micro_batches)
        raise NonFiniteUpdate(
            f"step {packed.step}: loss or gradients are not finite ({where}); "
            f"the policy stays at version {self.version}"
        )

    def _global_sums(
        self, results: Sequence[Mapping[str, Tensor]], names: Sequence[str]
    ) -> dict[str, float]:
        totals = torch.zeros(len(names), dtype=torch.float64, device=device())
        for result in results:
            totals += torch.stack([result[name].double() for name in names])
        if self.policy.groups.is_last_stage:
            dist.all_reduce(totals, group=self.policy.groups.dp_cp)
        self.policy.share_from_last_stage(totals)
        return dict(zip(names, totals.tolist(), strict=True))


def _name_samples(micro_batches: Sequence[MicroBatch]) -> str:
    names = [sample for micro_batch in micro_batches for sample in micro_batch.sample_ids]
    shown = ", ".join(names[:8])
    return f"samples {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
