"""GRPO and its relatives in NeMo-Aligner's loop: advantages within groups, and no critic."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from megatron_longrlvr.aligner.tensors import update_handles
from megatron_longrlvr.aligner.trainer import AlignerTrainer


class AlignerGRPOTrainer(AlignerTrainer):
    """NeMo-Aligner's trainer with group advantages."""

    def generate_ppo_data(
        self, rollout_batch: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Advantages within groups, and a handle for each optimizer update.

        Args:
            rollout_batch: See :meth:`prepare`.
        """
        prepared = self.prepare(rollout_batch)
        handles = update_handles(len(prepared.batches), device=rollout_batch["rewards"].device)
        return handles, {}
