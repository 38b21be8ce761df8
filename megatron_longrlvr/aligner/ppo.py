"""PPO with a critic in NeMo-Aligner's loop.

Values and advantages are taken where the native loop takes them, of packed rows whose prompt is
computed once. NeMo-Aligner's own estimates of padded rows are the same numbers:
``tests/integration/test_aligner_training.py`` has it compute them in the middle of a run.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from megatron_longrlvr.aligner.tensors import update_handles
from megatron_longrlvr.aligner.trainer import AlignerTrainer


class AlignerPPOTrainer(AlignerTrainer):
    """NeMo-Aligner's trainer with a critic's advantages.

    Its own warm-up repeats the first step without counting it, so that a run could not be stopped
    and resumed within. Here a step in which the critic learns alone is a step like any other, with
    no update of the policy.
    """

    def generate_ppo_data(
        self, rollout_batch: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Values, advantages, returns, and a handle for each update of the policy.

        Args:
            rollout_batch: See :meth:`prepare`.
        """
        self.prepare(rollout_batch)
        updates = self.model.work.policy_batches()
        return update_handles(len(updates), device=rollout_batch["rewards"].device), {}
