"""Sample and score a step's prompts, again where groups turn out to teach nothing.

With dynamic sampling (DAPO, arXiv:2503.14476, section 3.2) a step asks for further prompts
until every rank has its share of groups with spread in the reward, or the rounds are used up;
then it goes on with the groups it has. The paper resamples without bound; here a policy that
solves everything, or nothing, gets smaller batches instead of an endless or aborted step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_longrlvr.algorithms.assign import assign_advantages
from megatron_longrlvr.config.training import AlgorithmConfig, RolloutConfig
from megatron_longrlvr.rewards.judge.panel import PanelTraffic
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.stages import ScoredBatch, ScoredSample
from megatron_longrlvr.trainer.sampling import DataShare, Sampler
from megatron_longrlvr.trainer.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a step sampled."""

    scored: ScoredBatch
    """Everything, over all rounds."""

    for_training: ScoredBatch
    """The groups that the update may use, at most this rank's share."""

    rounds: int
    judging: PanelTraffic | None
    """What judging cost; None without a judge."""


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Samples responses and scores them."""

    sampler: Sampler
    scorer: RewardScorer
    rollout: RolloutConfig
    algorithm: AlgorithmConfig
    share: DataShare

    def collect(self, step: int, stopwatch: Stopwatch) -> Collected:
        """Sample and score the groups of one step; every rank calls this alike.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.
        """
        dynamic = self.algorithm.dynamic_sampling
        max_rounds = dynamic.max_rounds if dynamic.enabled else 1
        quota = self.rollout.prompts_per_step // self.share.size
        everything: list[ScoredSample] = []
        kept: list[ScoredSample] = []
        rounds = 0
        while rounds < max_rounds:
            scored = self._sample_round(step, stopwatch)
            rounds += 1
            everything += scored.scored
            kept += self._informative(scored) if dynamic.enabled else scored.scored
            has_enough = len(kept) >= quota * self.rollout.group_size
            if rounds < max_rounds and self.share.all_agree(has_enough):
                break
        kept = kept[: quota * self.rollout.group_size]
        return Collected(
            scored=self._batch(step, everything),
            for_training=self._batch(step, kept),
            rounds=rounds,
            judging=self.scorer.take_judge_traffic(),
        )

    def _sample_round(self, step: int, stopwatch: Stopwatch) -> ScoredBatch:
        with stopwatch.time("generate"):
            rollouts = self.sampler.sample(step, on_sample=self.scorer.begin)
        with stopwatch.time("score"):
            return self.scorer.score(rollouts)

    def _informative(self, scored: ScoredBatch) -> Sequence[ScoredSample]:
        """Whole groups that the advantage rule would keep."""
        dropping = self.algorithm.model_copy(update={"drop_uninformative_groups": True})
        size = scored.group_size
        kept: list[ScoredSample] = []
        for start in range(0, len(scored.scored), size):
            group = self._batch(scored.step, scored.scored[start : start + size])
            if assign_advantages(group, dropping).num_dropped_groups == 0:
                kept += group.scored
        return kept

    def _batch(self, step: int, scored: Sequence[ScoredSample]) -> ScoredBatch:
        return ScoredBatch(step=step, group_size=self.rollout.group_size, scored=tuple(scored))
