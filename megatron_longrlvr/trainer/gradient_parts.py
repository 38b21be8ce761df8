"""What each term of the reward sends to the policy as a gradient, on some steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from megatron_longrlvr.algorithms.mismatch import correct_for_mismatch
from megatron_longrlvr.algorithms.packing import Peers
from megatron_longrlvr.algorithms.reward_terms import split_advantages
from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.gradient_norm import gradient_norm
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.observability import names
from megatron_longrlvr.stages import AdvantageBatch, PackedBatch, TrainBatch
from megatron_longrlvr.trainer.schedule import Every

Pack = Callable[[AdvantageBatch], Sequence[PackedBatch]]
"""Packs samples for the updates of a step; a collective that decides by lengths alone."""


@dataclass(frozen=True, kw_only=True)
class GradientParts:
    """Measures the gradient of the step's first update, whole and by term of the reward."""

    every: int
    """Steps; 0 never measures."""

    rewards: RewardsConfig
    algorithm: AlgorithmConfig
    peers: Peers

    def measure(
        self, learner: Learner, advantages: AdvantageBatch, batch: TrainBatch, *, pack: Pack
    ) -> dict[str, float]:
        """Norms by metric name; empty on other steps. Every rank calls this.

        Args:
            learner: Before the step's first update; it takes no step here.
            advantages: This rank's, of the whole step.
            batch: The first update's, corrected for mismatch.
            pack: What packed it.
        """
        if not Every(self.every).is_due(batch.packed.step):
            return {}
        norms = {names.part_grad_norm("reward"): gradient_norm(learner, batch, self.algorithm)}
        for term, shares in split_advantages(advantages, self.rewards).items():
            norm = 0.0
            # A term that the variant does not pay is 0 on all ranks; they must agree to pass it by.
            if any(self.peers.gather(any(map(any, shares)))):
                part = self._of_term(batch, pack(replace(advantages, advantages=shares)))
                norm = gradient_norm(learner, part, self.algorithm)
            norms[names.part_grad_norm(term)] = norm
        return norms

    def _of_term(self, batch: TrainBatch, packed: Sequence[PackedBatch]) -> TrainBatch:
        first = next(one for one in packed if one.num_global_samples > 0)
        return correct_for_mismatch(replace(batch, packed=first), self.algorithm.mismatch)
