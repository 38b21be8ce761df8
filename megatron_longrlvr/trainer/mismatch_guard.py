"""Watches, every step, whether engine and learner agree on what was sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.algorithms.mismatch import GapSums, correct_for_mismatch, measure_gap
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import PolicyMismatch
from megatron_longrlvr.parallel.collectives import gather_objects
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import TrainBatch


@dataclass(frozen=True, kw_only=True)
class MismatchGuard:
    """Measures the gap over all data-parallel ranks, corrects for it, and stops where it must."""

    algorithm: AlgorithmConfig
    groups: ProcessGroups

    def inspect(
        self, batches: Sequence[TrainBatch]
    ) -> tuple[Sequence[TrainBatch], Mapping[str, float]]:
        """Batches to learn from, and the gap by metric name; every rank calls this.

        Raises:
            PolicyMismatch: The gap is above the recipe's limit; no weight has changed.
        """
        if self.algorithm.proximal == "behavior":
            return batches, {}
        own = sum((measure_gap(batch) for batch in batches), start=GapSums.zero())
        total = sum(gather_objects(own, self.groups.dp), start=GapSums.zero())
        config = self.algorithm.mismatch
        if config.stop_above is not None and total.abs_mean > config.stop_above:
            raise PolicyMismatch(
                f"engine and learner differ by {total.abs_mean:.3g} nats per token on average and "
                f"by {total.largest:.3g} at most; algorithm.mismatch.stop_above="
                f"{config.stop_above:g} stops the run before the update"
            )
        return [correct_for_mismatch(batch, config) for batch in batches], total.metrics()
