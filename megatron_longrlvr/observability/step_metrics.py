"""Metrics of one batch of rollouts, as sums that are added over ranks before they are divided.

    tally = train_tally(scored) + advantage_tally(advantages)
    tally = Tally.from_vector(tally.names, all_reduced(tally.to_vector()))
    metrics = train_metrics(tally)

Every rank counts the same names, a rank without samples included, so the vectors line up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from megatron_longrlvr.data.response_format import ParseOutcome
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.stages import AdvantageBatch, FinishReason, ScoredBatch, ScoredSample

RIGHT_ANSWER = 0.5
"""Answer reward from which an answer counts as right; rule verifiers give 0 or 1."""

GROUNDED_F_BETA = 0.8
"""F-beta from which citations count as grounded. With beta 2 and up to four evidence chunks it is
reached only when all of them are cited: three of four alone give 0.789."""

INFORMATIVE_SPREAD = 1e-6
"""Difference between rewards of a group above which it is no rounding."""

_MIN_VALID_SAMPLES = 2  # as in algorithms/assign.py, which needs torch

_REWARD_SQUARES = "reward/square_mean"
_EVAL_ANSWER_BY_PROMPT = "eval/answer_by_prompt"
_EVAL_ANSWER_BY_PROMPT_SQUARES = "eval/answer_by_prompt_square"
_EVAL_F_BETA_BY_PROMPT = "eval/f_beta_by_prompt"
_EVAL_F_BETA_BY_PROMPT_SQUARES = "eval/f_beta_by_prompt_square"

_TOTALS = frozenset(
    {
        names.ROLLOUT_PROMPTS,
        names.ROLLOUT_SAMPLES,
        names.ROLLOUT_RESPONSE_TOKENS,
        names.REWARD_INVALID_SAMPLES,
        names.REWARD_GROUPS_TOO_FEW_VALID,
        names.EVAL_PROMPTS,
        names.EVAL_SAMPLES,
        names.EVAL_INVALID_SAMPLES,
    }
)
_INTERNAL = frozenset(
    {
        _REWARD_SQUARES,
        _EVAL_ANSWER_BY_PROMPT,
        _EVAL_ANSWER_BY_PROMPT_SQUARES,
        _EVAL_F_BETA_BY_PROMPT,
        _EVAL_F_BETA_BY_PROMPT_SQUARES,
    }
)


def train_tally(batch: ScoredBatch) -> Tally:
    """Count what was written and what it earned.

    Rewards run over valid samples only: an invalid one earned nothing that is known.
    """
    valid = [scored for scored in batch.scored if scored.is_valid]
    groups = groups_of(batch)
    return (
        _writing_tally(batch)
        + _earning_tally(valid)
        + _contingency_tally(valid)
        + Tally.of(
            {
                names.REWARD_INVALID_SAMPLES: [not scored.is_valid for scored in batch.scored],
                names.REWARD_GROUPS_TOO_FEW_VALID: [_has_too_few(group) for group in groups],
                names.REWARD_GROUPS_INFORMATIVE_FRAC: [_is_informative(group) for group in groups],
            }
        )
    )


def advantage_tally(batch: AdvantageBatch) -> Tally:
    """Count the groups that were dropped, and what else was found on the way."""
    num_kept = batch.num_groups - batch.num_dropped_groups
    dropped = [1.0] * batch.num_dropped_groups + [0.0] * num_kept
    return Tally.of({names.REWARD_GROUPS_DROPPED_FRAC: dropped, **batch.findings})


def eval_tally(batch: ScoredBatch) -> Tally:
    """Count a held-out batch; means run over valid samples, as in training."""
    valid = [scored for scored in batch.scored if scored.is_valid]
    by_prompt = [[scored for scored in group if scored.is_valid] for group in groups_of(batch)]
    answers = [_mean_part(group, "answer") for group in by_prompt if group]
    f_betas = [_mean_part(group, "context_f_beta") for group in by_prompt if group]
    return Tally.of(
        {
            names.EVAL_SAMPLES: [1.0] * len(batch.scored),
            names.EVAL_PROMPTS: [1.0] * len(by_prompt),
            names.EVAL_INVALID_SAMPLES: [not scored.is_valid for scored in batch.scored],
            names.EVAL_REWARD_MEAN: [scored.reward for scored in valid],
            names.EVAL_ANSWER_MEAN: _part(valid, "answer"),
            names.EVAL_CONTEXT_F_BETA_MEAN: _part(valid, "context_f_beta"),
            names.EVAL_CONTEXT_PRECISION_MEAN: _part(valid, "context_precision"),
            names.EVAL_CONTEXT_RECALL_MEAN: _part(valid, "context_recall"),
            names.EVAL_FORMAT_OK_FRAC: _part(valid, "format_ok"),
            names.EVAL_RESPONSE_TOKENS_MEAN: _response_lengths(batch.scored),
            names.EVAL_TRUNCATED_FRAC: _are_truncated(batch.scored),
            _EVAL_ANSWER_BY_PROMPT: answers,
            _EVAL_ANSWER_BY_PROMPT_SQUARES: [value**2 for value in answers],
            _EVAL_F_BETA_BY_PROMPT: f_betas,
            _EVAL_F_BETA_BY_PROMPT_SQUARES: [value**2 for value in f_betas],
        }
    )


def train_metrics(tally: Tally) -> dict[str, float]:
    """Metrics by name from the sums of all ranks."""
    return {
        **_means_and_totals(tally),
        names.REWARD_STD: tally.std(names.REWARD_MEAN, _REWARD_SQUARES),
    }


def eval_metrics(tally: Tally) -> dict[str, float]:
    """Metrics by name from the sums of all ranks.

    Standard errors are over prompts, not samples: samples of one prompt are not independent.
    """
    return {
        **_means_and_totals(tally),
        names.EVAL_ANSWER_STDERR: _stderr(
            tally, _EVAL_ANSWER_BY_PROMPT, _EVAL_ANSWER_BY_PROMPT_SQUARES
        ),
        names.EVAL_CONTEXT_F_BETA_STDERR: _stderr(
            tally, _EVAL_F_BETA_BY_PROMPT, _EVAL_F_BETA_BY_PROMPT_SQUARES
        ),
    }


def update_metrics(
    metrics: Mapping[str, float], *, prefix: str = names.UPDATE_PREFIX
) -> dict[str, float]:
    """``UpdateStats.metrics`` under their full names."""
    return {prefix + name: value for name, value in metrics.items()}


def _writing_tally(batch: ScoredBatch) -> Tally:
    lengths = _response_lengths(batch.scored)
    outcomes = {
        names.parse_outcome_frac(outcome.value): [
            float(scored.parse_outcome == outcome.value) for scored in batch.scored
        ]
        for outcome in ParseOutcome
    }
    return Tally.of(
        {
            names.ROLLOUT_PROMPTS: [1.0] * len(groups_of(batch)),
            names.ROLLOUT_SAMPLES: [1.0] * len(lengths),
            names.ROLLOUT_RESPONSE_TOKENS: lengths,
            names.ROLLOUT_RESPONSE_TOKENS_MEAN: lengths,
            names.ROLLOUT_TRUNCATED_FRAC: _are_truncated(batch.scored),
            names.ROLLOUT_CITED_CHUNKS_MEAN: [
                len(set(scored.cited_chunk_ids)) for scored in batch.scored
            ],
            **outcomes,
        }
    )


def _earning_tally(valid: Sequence[ScoredSample]) -> Tally:
    return Tally.of(
        {
            names.REWARD_MEAN: [scored.reward for scored in valid],
            _REWARD_SQUARES: [scored.reward**2 for scored in valid],
            names.REWARD_ANSWER_MEAN: _part(valid, "answer"),
            names.REWARD_CONTEXT_F_BETA_MEAN: _part(valid, "context_f_beta"),
            names.REWARD_CONTEXT_PRECISION_MEAN: _part(valid, "context_precision"),
            names.REWARD_CONTEXT_RECALL_MEAN: _part(valid, "context_recall"),
            names.REWARD_FORMAT_OK_FRAC: _part(valid, "format_ok"),
        }
    )


def _contingency_tally(valid: Sequence[ScoredSample]) -> Tally:
    cells = [
        (
            scored.reward_parts["answer"] >= RIGHT_ANSWER,
            scored.reward_parts["context_f_beta"] >= GROUNDED_F_BETA,
        )
        for scored in valid
    ]
    return Tally.of(
        {
            names.REWARD_RIGHT_GROUNDED_FRAC: [cell == (True, True) for cell in cells],
            names.REWARD_RIGHT_UNGROUNDED_FRAC: [cell == (True, False) for cell in cells],
            names.REWARD_WRONG_GROUNDED_FRAC: [cell == (False, True) for cell in cells],
            names.REWARD_WRONG_UNGROUNDED_FRAC: [cell == (False, False) for cell in cells],
            names.REWARD_GROUNDED_GIVEN_RIGHT: [grounded for right, grounded in cells if right],
        }
    )


def _means_and_totals(tally: Tally) -> dict[str, float]:
    return {
        name: tally[name].total if name in _TOTALS else tally[name].mean
        for name in tally.names
        if name not in _INTERNAL
    }


def _stderr(tally: Tally, values: str, squares: str) -> float:
    """Unbiased variance over the number of prompts; NaN below two prompts."""
    count = tally[values].count
    return tally.std(values, squares) / math.sqrt(count - 1) if count > 1 else math.nan


def groups_of(batch: ScoredBatch) -> list[Sequence[ScoredSample]]:
    """Samples of each prompt."""
    size = batch.group_size
    return [batch.scored[start : start + size] for start in range(0, len(batch.scored), size)]


def _has_too_few(group: Sequence[ScoredSample]) -> bool:
    return sum(scored.is_valid for scored in group) < _MIN_VALID_SAMPLES


def _is_informative(group: Sequence[ScoredSample]) -> bool:
    rewards = [scored.reward for scored in group if scored.is_valid]
    return len(rewards) >= _MIN_VALID_SAMPLES and max(rewards) - min(rewards) > INFORMATIVE_SPREAD


def _part(scored: Sequence[ScoredSample], name: str) -> list[float]:
    return [one.reward_parts[name] for one in scored]


def _mean_part(scored: Sequence[ScoredSample], name: str) -> float:
    return math.fsum(_part(scored, name)) / len(scored)


def _response_lengths(scored: Sequence[ScoredSample]) -> list[float]:
    return [float(len(one.sample.token_ids)) for one in scored]


def _are_truncated(scored: Sequence[ScoredSample]) -> list[float]:
    return [float(one.sample.finish_reason is FinishReason.LENGTH) for one in scored]
