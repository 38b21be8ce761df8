"""Measure a policy on held-out prompts."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_longrlvr.config.task import EvaluationConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.grounding import grounding_tally, measured_means
from megatron_longrlvr.observability.step_metrics import eval_metrics, eval_tally
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.parallel.collectives import sum_over
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.rewards.scorer import RewardScorer
from megatron_longrlvr.rollout.engine import RolloutEngine, SamplingParams
from megatron_longrlvr.stages import Prompt, PromptBatch, ScoredBatch


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """The same prompts and the same random numbers each time, so that only the policy differs."""

    config: EvaluationConfig
    prompts: tuple[Prompt, ...]
    """This data-parallel rank's share."""

    engine: RolloutEngine
    scorer: RewardScorer
    max_response_tokens: int
    groups: ProcessGroups

    def evaluate(self) -> tuple[dict[str, float], ScoredBatch]:
        """Sample and score; every rank calls this.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.

        Returns:
            Metrics over all ranks, by name, and this rank's scored samples.
        """
        batch = PromptBatch(step=0, prompts=self.prompts, group_size=self.config.samples_per_prompt)
        params = SamplingParams(
            max_response_tokens=self.max_response_tokens,
            temperature=self.config.temperature,
            seed=self.config.seed,
        )
        rollouts = self.engine.generate(batch, params, on_sample=self.scorer.begin)
        scored = self.scorer.score(rollouts)
        found = measured_means(self._summed(grounding_tally(scored)))
        return {
            **eval_metrics(self._summed(eval_tally(scored))),
            **{names.held_out(name): value for name, value in found.items()},
        }, scored

    def _summed(self, tally: Tally) -> Tally:
        return Tally.from_vector(tally.names, sum_over(self.groups.dp, tally.to_vector()))
