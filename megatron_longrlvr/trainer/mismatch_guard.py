"""Watches, every step, whether engine and learner agree on what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.algorithms.mismatch import GapSums, correct_for_mismatch, measure_gap
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.errors import PolicyMismatch
from megatron_longrlvr.parallel.collectives import gather_objects
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import Sample, TrainBatch

Examination = Callable[[Sequence[Sample]], str]
"""From samples of this rank to what keeps engine and learner apart."""


@dataclass(frozen=True, kw_only=True)
class MismatchGuard:
    """Measures the gap over all data-parallel ranks, corrects for it, and stops where it must."""

    algorithm: AlgorithmConfig
    groups: ProcessGroups
    examine: Examination | None = None
    """Finds out why the two differ, where the engine can be asked."""

    def inspect(
        self, batches: Sequence[TrainBatch], samples: Sequence[Sample] = ()
    ) -> tuple[Sequence[TrainBatch], Mapping[str, float]]:
        """Batches to learn from, and the gap by metric name; every rank calls this.

        Args:
            batches: With proximal log-probabilities.
            samples: This rank's, that the batches were made of.

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
                f"{config.stop_above:g} stops the run before the update{self._cause(samples)}"
            )
        return [correct_for_mismatch(batch, config) for batch in batches], total.metrics()

    def _cause(self, samples: Sequence[Sample]) -> str:
        # All ranks have the same sums, so all of them ask or none does.
        return "" if self.examine is None else f"; cause: {self.examine(samples)}"
