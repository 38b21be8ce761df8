"""Turns sampled responses into rewards by rules alone: parse, verify, match, combine.

What a policy writes is data: a response that cannot be parsed is scored by rule and keeps its
outcome. A sample the engine gave up on is something else: nobody knows what it would have
earned, so it is invalid instead of worth 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.data.response_format import (
    ParsedResponse,
    ParseOutcome,
    parse_strict,
    parse_tolerant,
)
from megatron_longrlvr.rewards.answer.registry import VERIFIERS, best_verdict
from megatron_longrlvr.rewards.composite import CompositeReward, compose_reward
from megatron_longrlvr.stages import (
    FinishReason,
    Prompt,
    RolloutBatch,
    Sample,
    ScoredBatch,
    ScoredSample,
)

REWARD_PARTS = (
    "answer",
    "context_f_beta",
    "context_precision",
    "context_recall",
    "format_ok",
)
"""Keys of ``ScoredSample.reward_parts``, the same for every sample and variant."""

_PARSERS: Mapping[str, Callable[[str], ParsedResponse]] = {
    "strict": parse_strict,
    "tolerant": parse_tolerant,
}


class RewardScorer:
    """Scores rollouts by the recipe's parser, answer verifier and reward variant.

    Under the strict rule a response that is not exactly one block of each kind earns 0 in every
    part. Under the tolerant rule a missing block makes only its own part 0.
    """

    def __init__(self, config: RewardsConfig) -> None:
        self._config = config
        self._parse = _PARSERS[config.parser]
        self._verify = VERIFIERS[config.answer]

    def score(self, rollouts: RolloutBatch) -> ScoredBatch:
        """Score every sample, in the order given."""
        return ScoredBatch(
            step=rollouts.step,
            group_size=rollouts.group_size,
            scored=[self._score_sample(sample) for sample in rollouts.samples],
        )

    def _score_sample(self, sample: Sample) -> ScoredSample:
        parsed = self._parse(sample.text)
        is_valid = sample.finish_reason is not FinishReason.ABORTED
        is_format_ok = is_valid and parsed.outcome is ParseOutcome.OK
        may_earn = is_format_ok or (is_valid and self._config.parser == "tolerant")
        reward = self._reward(sample.prompt, parsed) if may_earn else None
        return ScoredSample(
            sample=sample,
            reward=reward.total if reward else 0.0,
            reward_parts=_parts(reward, is_format_ok=is_format_ok),
            cited_chunk_ids=parsed.cited_chunk_ids,
            answer=parsed.answer,
            parse_outcome=parsed.outcome.value,
            is_valid=is_valid,
        )

    def _reward(self, prompt: Prompt, parsed: ParsedResponse) -> CompositeReward:
        answer = 0.0
        if parsed.answer is not None:
            answer = best_verdict(self._verify, parsed.answer, prompt.reference_answers).score
        return compose_reward(
            self._config,
            answer=answer,
            cited=parsed.cited_chunk_ids,
            evidence=prompt.evidence_chunk_ids,
        )


def _parts(reward: CompositeReward | None, *, is_format_ok: bool) -> dict[str, float]:
    if reward is None:
        return dict.fromkeys(REWARD_PARTS, 0.0)
    return {
        "answer": reward.answer,
        "context_f_beta": reward.match.f_beta,
        "context_precision": reward.match.precision,
        "context_recall": reward.match.recall,
        "format_ok": float(is_format_ok),
    }
