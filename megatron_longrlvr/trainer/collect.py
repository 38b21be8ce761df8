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
from megatron_longrlvr.stages import RolloutBatch, ScoredBatch, ScoredSample
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
        return self.complete(self.score(self.sample(step, stopwatch), stopwatch), stopwatch)

    def sample(self, step: int, stopwatch: Stopwatch) -> RolloutBatch:
        """Sample a round of the step's prompts; judging begins meanwhile."""
        with stopwatch.time("generate"):
            return self.sampler.sample(step, on_sample=self.scorer.begin)

    def score(self, rollouts: RolloutBatch, stopwatch: Stopwatch) -> ScoredBatch:
        """Score a round.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.
        """
        with stopwatch.time("score"):
            return self.scorer.score(rollouts)

    def complete(self, first: ScoredBatch, stopwatch: Stopwatch) -> Collected:
        """The step's groups from its first round, and from as many more as dynamic sampling takes.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.
        """
        dynamic = self.algorithm.dynamic_sampling
        max_rounds = dynamic.max_rounds if dynamic.enabled else 1
        quota = self.rollout.prompts_per_step // self.share.size * self.rollout.group_size
        step, scored, rounds = first.step, first, 1
        everything = list(scored.scored)
        kept = list(self._usable(scored))
        while rounds < max_rounds and not self.share.all_agree(len(kept) >= quota):
            scored = self.score(self.sample(step, stopwatch), stopwatch)
            everything += scored.scored
            kept += self._usable(scored)
            rounds += 1
        return Collected(
            scored=self._batch(step, everything),
            for_training=self._batch(step, kept[:quota]),
            rounds=rounds,
            judging=self.scorer.take_judge_traffic(),
        )

    def _usable(self, scored: ScoredBatch) -> Sequence[ScoredSample]:
        return (
            self._informative(scored) if self.algorithm.dynamic_sampling.enabled else scored.scored
        )

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
