"""Turns sampled responses into rewards: parse, verify or judge, match, combine.

What a policy writes is data: a response that cannot be parsed is scored by rule and keeps its
outcome. A sample the engine gave up on, or one that no verdict came for, is something else: nobody
knows what it would have earned, so it is invalid instead of worth 0.

Where the recipe has a judge, the verifier comes first: what it finds right or wrong is so, and what
it leaves undecided is the judge's to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megatron_longrlvr.config.task import RewardsConfig
from megatron_longrlvr.data.response_format import (
    ParsedResponse,
    ParseOutcome,
    parse_strict,
    parse_tolerant,
)
from megatron_longrlvr.rewards.answer.registry import VERIFIERS, best_verification
from megatron_longrlvr.rewards.answer.verification import Ruling
from megatron_longrlvr.rewards.composite import CompositeReward, compose_reward
from megatron_longrlvr.rewards.judge.panel import JudgePanel, PanelTraffic
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.untrusted import find_attacks
from megatron_longrlvr.stages import (
    FinishReason,
    Judgement,
    RolloutBatch,
    Sample,
    ScoredBatch,
    ScoredSample,
    Verdict,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """A sample as far as rules get with it."""

    sample: Sample
    parsed: ParsedResponse
    may_earn: bool
    is_format_ok: bool
    answer: float
    """Answer reward; means nothing where there is a query."""

    query: JudgeQuery | None
    """For the judge; None where the answer is decided."""


class RewardScorer:
    """Scores rollouts by the recipe's parser, answer verifier, judge and reward variant.

    Under the strict rule a response that is not exactly one block of each kind earns 0 in every
    part, and is not judged. Under the tolerant rule a missing block makes only its own part 0.
    """

    def __init__(self, config: RewardsConfig, panel: JudgePanel | None = None) -> None:
        """Choose the rules.

        Args:
            config: The recipe's rewards.
            panel: Who judges; given if and only if the recipe has a judge.

        Raises:
            ValueError: Recipe and panel do not agree.
        """
        if (config.judge is None) != (panel is None):
            raise ValueError("rewards.judge and a panel belong together: give both or neither")
        self._config = config
        self._panel = panel
        self._parse = _PARSERS[config.parser]

    def begin(self, sample: Sample) -> None:
        """Have a finished sample judged while others are still sampled, and return at once."""
        if self._panel is not None and (query := self._read(sample).query) is not None:
            self._panel.start(query)

    def score(self, rollouts: RolloutBatch) -> ScoredBatch:
        """Score every sample, in the order given; with a judge, every rank calls this alike.

        Raises:
            JudgeUnavailable: Too many verdicts are missing.
        """
        readings = [self._read(sample) for sample in rollouts.samples]
        queries = [reading.query for reading in readings if reading.query is not None]
        judgements = iter(self._panel.collect(queries) if self._panel is not None else [])
        return ScoredBatch(
            step=rollouts.step,
            group_size=rollouts.group_size,
            scored=[
                self._score(reading, next(judgements) if reading.query is not None else None)
                for reading in readings
            ],
        )

    def take_judge_traffic(self) -> PanelTraffic | None:
        """What judging cost since the last call; None without a judge."""
        return None if self._panel is None else self._panel.take_traffic()

    def close(self) -> None:
        """Let go of the judge."""
        if self._panel is not None:
            self._panel.close()

    def _read(self, sample: Sample) -> _Reading:
        parsed = self._parse(sample.text)
        is_complete = sample.finish_reason is not FinishReason.ABORTED
        is_format_ok = is_complete and parsed.outcome is ParseOutcome.OK
        may_earn = is_format_ok or (is_complete and self._config.parser == "tolerant")
        answer: float | None = 0.0
        query = None
        if may_earn and parsed.answer is not None:
            answer = self._decide(parsed.answer, sample)
            if answer is None:
                query = JudgeQuery(
                    question=sample.prompt.question,
                    references=tuple(sample.prompt.reference_answers),
                    answer=parsed.answer,
                )
        return _Reading(
            sample=sample,
            parsed=parsed,
            may_earn=may_earn,
            is_format_ok=is_format_ok,
            answer=answer or 0.0,
            query=query,
        )

    def _decide(self, answer: str, sample: Sample) -> float | None:
        """Answer reward by rule; None where the judge is to decide."""
        judge = self._config.judge
        if judge is not None and (not answer.strip() or len(answer) > judge.max_answer_chars):
            return 0.0
        if self._config.answer == "judge":
            return None
        verify = VERIFIERS[self._config.answer]
        verification = best_verification(verify, answer, sample.prompt.reference_answers)
        is_open = judge is not None and verification.ruling is Ruling.UNDECIDED
        return None if is_open else verification.score

    def _score(self, reading: _Reading, judgement: Judgement | None) -> ScoredSample:
        sample, parsed = reading.sample, reading.parsed
        is_decided = judgement is None or judgement.verdict is not Verdict.NONE
        answer = reading.answer if judgement is None else float(judgement.verdict is Verdict.YES)
        reward = self._compose(reading, answer) if reading.may_earn and is_decided else None
        has_answer = self._panel is not None and parsed.answer is not None
        return ScoredSample(
            sample=sample,
            reward=reward.total if reward else 0.0,
            reward_parts=_parts(reward, is_format_ok=reading.is_format_ok),
            cited_chunk_ids=parsed.cited_chunk_ids,
            answer=parsed.answer,
            parse_outcome=parsed.outcome.value,
            is_valid=is_decided and sample.finish_reason is not FinishReason.ABORTED,
            judgement=judgement,
            alarms=find_attacks(parsed.answer or "") if has_answer else (),
        )

    def _compose(self, reading: _Reading, answer: float) -> CompositeReward:
        return compose_reward(
            self._config,
            answer=answer,
            cited=reading.parsed.cited_chunk_ids,
            evidence=reading.sample.prompt.evidence_chunk_ids,
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
