"""One training step of this rank, stage by stage as NeMo-Aligner's loop asks for them.

Its batches carry tensors only. A sample has an id, its place among all samples of the step; the
records that belong to it, with text and evidence, stay on the rank that sampled it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from megatron_longrlvr.model.learner import Gradients
from megatron_longrlvr.stages import RolloutBatch, ScoredBatch, TrainBatch, UpdateStats
from megatron_longrlvr.trainer.step import (
    Prepared,
    StepOutcome,
    StepParts,
    learn_values,
    policy_batches,
    prepare,
)
from megatron_longrlvr.trainer.stopwatch import Stopwatch


class StepWork:
    """The same stages as ``run_step``, each to be called once and in this order."""

    def __init__(self, parts: StepParts, *, step: int) -> None:
        self.step = step
        self.stopwatch = Stopwatch()
        self.prompt_cursor = parts.collector.sampler.cursor()
        """Where the prompts of this step begin."""

        self._parts = parts
        self._version = parts.learner.version
        self._rollouts: RolloutBatch | None = None
        self._scored: ScoredBatch | None = None
        self._prepared: Prepared | None = None
        self._gradients: Gradients | None = None
        self._updates: list[UpdateStats] = []
        self._critic: Sequence[UpdateStats] = ()

    def sample(self) -> RolloutBatch:
        """This rank's samples, from the engine."""
        self._rollouts = self._parts.collector.sample(self.step, self.stopwatch)
        return self._rollouts

    def first_id(self) -> int:
        """Id of this rank's first sample; those behind it follow without a gap."""
        assert self._rollouts is not None, "ids belong to samples"
        return self._parts.peers.rank * len(self._rollouts.samples)

    def score(self) -> ScoredBatch:
        """What the samples earned.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.
        """
        assert self._rollouts is not None, "samples come before their rewards"
        self._scored = self._parts.collector.score(self._rollouts, self.stopwatch)
        return self._scored

    def prepare(self, reward_by_id: Mapping[int, float]) -> Prepared:
        """Packed batches of whole groups, with log-probabilities and advantages.

        Args:
            reward_by_id: Of the samples of all ranks, as they came back from NeMo-Aligner, which
                deals samples of a group to different ranks.

        Raises:
            JudgeUnavailable: Too many verdicts of further rounds are missing.
            PolicyMismatch: Engine and learner are further apart than the recipe allows.
        """
        assert self._scored is not None, "rewards come before advantages"
        first = self.first_id()
        rewarded = [
            replace(scored, reward=reward_by_id[first + index])
            for index, scored in enumerate(self._scored.scored)
        ]
        batch = replace(self._scored, scored=rewarded)
        collected = self._parts.collector.complete(batch, self.stopwatch)
        self._prepared = prepare(self._parts, collected, self.stopwatch)
        return self._prepared

    def policy_batches(self) -> Sequence[TrainBatch]:
        """What the policy learns from; nothing while a critic learns alone."""
        assert self._prepared is not None, "batches come before updates"
        return policy_batches(self._parts, self._prepared, step=self.step)

    def learn_values(self) -> None:
        """Take the critic's updates, where there is one.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank.
        """
        assert self._prepared is not None, "batches come before updates"
        self._critic = learn_values(self._parts, self._prepared, self.stopwatch)

    def accumulate(self, update: int) -> float:
        """Gradients of one of the step's updates; returns its loss.

        Raises:
            NonFiniteUpdate: Loss or gradients are not finite on some rank.
        """
        assert self._prepared is not None, "batches come before gradients"
        parts = self._parts
        with self.stopwatch.time("update"):
            batch = self._prepared.batches[update]
            self._gradients = parts.learner.accumulate_gradients(batch, parts.algorithm)
        return self._gradients.sums["loss"]

    def apply(self) -> None:
        """Take the optimizer step for which gradients were accumulated; else do nothing."""
        if self._gradients is None:
            return
        with self.stopwatch.time("update"):
            self._updates.append(self._parts.learner.apply_gradients(self._gradients))
        self._gradients = None

    def outcome(self, refit: Mapping[str, float]) -> StepOutcome:
        """What the finished step did.

        Args:
            refit: What handing over the weights that it sampled from took, by metric name.
        """
        assert self._prepared is not None, "a step that did not get this far has no outcome"
        return StepOutcome(
            version=self._version,
            prepared=self._prepared,
            updates=self._updates,
            refit=refit,
            stopwatch=self.stopwatch,
            critic=self._critic,
        )
