"""A network with its gradient buffers and its optimizer: what a policy and a critic share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.config.policy import OptimizerConfig
from megatron_longrlvr.errors import NonFiniteUpdate
from megatron_longrlvr.model.local_batch import LocalBatch
from megatron_longrlvr.model.network import Network
from megatron_longrlvr.model.optimizer import (
    build_optimizer,
    gradients_are_finite,
    learning_rate,
    set_learning_rate,
    wrap_for_training,
)
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.stages import MicroBatch, PackedBatch, PolicyVersion

Run = Callable[[Sequence[LocalBatch]], Sequence[Mapping[str, Tensor]]]
"""Forward and backward over micro-batches; named results, ``loss`` among them, of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one optimizer step did."""

    sums: Mapping[str, float]
    """Over micro-batches and ranks, by name."""

    grad_norm: float
    """Of all gradients together, before clipping."""

    lr: float


class Trainee:
    """Takes optimizer steps on a network; every rank calls it alike."""

    role = "policy"
    """What it is called in messages."""

    def __init__(
        self, network: Network, optimizer: OptimizerConfig, *, num_optimizer_steps: int
    ) -> None:
        """Give the network's chunks gradient buffers and an optimizer.

        Args:
            network: Whose weights are trained.
            optimizer: How.
            num_optimizer_steps: Length of the run, for the decay of the learning rate.
        """
        self.network = network
        self.version = PolicyVersion(0)
        """Optimizer steps in the weights."""

        self.optimizer_config = optimizer
        self.num_optimizer_steps = num_optimizer_steps
        fp8 = network.model.fp8
        self.wrapped = wrap_for_training(
            network.chunks, network.groups, is_distributed=optimizer.distributed, fp8=fp8
        )
        self.optimizer = build_optimizer(self.wrapped, optimizer, dtype=network.dtype, fp8=fp8)

    def _step(self, packed: PackedBatch, run: Run, *, names: Sequence[str]) -> Step:
        """Take one optimizer step.

        Args:
            packed: What is trained on.
            run: Forward and backward.
            names: Of the results to sum up; the same on every rank.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank; weights and optimizer
                are as before the call, on every rank.
        """
        return self._apply(self._accumulate(packed, run, names=names))

    def _accumulate(
        self, packed: PackedBatch, run: Run, *, names: Sequence[str]
    ) -> dict[str, float]:
        """Put gradients into the buffers, where they were 0 before; sums of results by name.

        Raises:
            NonFiniteUpdate: As in :meth:`_step`.
        """
        for chunk in self.wrapped:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        results = run(self.network.localize(packed.micro_batches))
        self._refuse_non_finite(packed, results)
        return self._global_sums(results, names)

    def _apply(self, sums: Mapping[str, float]) -> Step:
        """Take the optimizer step for the gradients that stand in the buffers."""
        lr = learning_rate(
            self.optimizer_config, step=self.version, num_steps=self.num_optimizer_steps
        )
        set_learning_rate(self.optimizer, lr)
        _, grad_norm, _ = self.optimizer.step()
        self.version = PolicyVersion(self.version + 1)
        return Step(sums=sums, grad_norm=float(grad_norm), lr=lr)

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
            f"the {self.role} stays at version {self.version}"
        )

    def _global_sums(
        self, results: Sequence[Mapping[str, Tensor]], names: Sequence[str]
    ) -> dict[str, float]:
        totals = torch.zeros(len(names), dtype=torch.float64, device=device())
        for result in results:
            totals += torch.stack([result[name].double() for name in names])
        groups = self.network.groups
        if groups.is_last_stage:
            dist.all_reduce(totals, group=groups.dp_cp)
        self.network.share_from_last_stage(totals)
        return dict(zip(names, totals.tolist(), strict=True))


def _name_samples(micro_batches: Sequence[MicroBatch]) -> str:
    names = [sample for micro_batch in micro_batches for sample in micro_batch.sample_ids]
    shown = ", ".join(names[:8])
    return f"samples {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
