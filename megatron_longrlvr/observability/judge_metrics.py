"""Metrics of a batch that a judge took part in, as sums that are added over ranks first."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.tally import Tally
from megatron_longrlvr.rewards.judge.panel import PanelTraffic
from megatron_longrlvr.rewards.judge.query import NoVerdict
from megatron_longrlvr.stages import ScoredSample, Verdict

_TOTALS = frozenset(
    {
        names.JUDGE_ANSWERS,
        names.JUDGE_FAILED,
        names.JUDGE_ATTACKS,
        names.JUDGE_REQUESTS,
        names.JUDGE_RETRIES,
        names.JUDGE_CIRCUIT_OPENINGS,
        *(names.judge_failed_by(reason.value) for reason in NoVerdict),
    }
)


def judge_tally(scored: Sequence[ScoredSample], traffic: PanelTraffic) -> Tally:
    """Count verdicts, failures by reason, alarms and requests of one rank."""
    answered = [one for one in scored if one.answer is not None]
    judgements = [one.judgement for one in scored if one.judgement is not None]
    failed = [float(one.verdict is Verdict.NONE) for one in judgements]
    attacks = [float(bool(one.alarms)) for one in answered]
    return Tally.of(
        {
            names.JUDGE_VERIFIER_DECIDED_FRAC: [one.judgement is None for one in answered],
            names.JUDGE_ANSWERS: [1.0] * len(judgements),
            names.JUDGE_CACHED_FRAC: [one.is_cached for one in judgements],
            names.JUDGE_YES_FRAC: [
                one.verdict is Verdict.YES for one in judgements if one.verdict is not Verdict.NONE
            ],
            names.JUDGE_FAILED: failed,
            names.JUDGE_FAILED_FRAC: failed,
            **{
                names.judge_failed_by(reason.value): [
                    one.reason == reason.value for one in judgements
                ]
                for reason in NoVerdict
            },
            names.JUDGE_LATENCY_S_MEAN: [one.latency_s for one in judgements if not one.is_cached],
            names.JUDGE_ATTACKS: attacks,
            names.JUDGE_ATTACKS_FRAC: attacks,
            names.JUDGE_REQUESTS: [traffic.traffic.requests],
            names.JUDGE_RETRIES: [traffic.traffic.retries],
            names.JUDGE_CIRCUIT_OPENINGS: [traffic.traffic.circuit_openings],
            # Every rank pauses for as long, so the mean over ranks is the pause.
            names.JUDGE_PAUSED_S: [traffic.paused_s],
        }
    )


def judge_metrics(tally: Tally) -> dict[str, float]:
    """Metrics by name from the sums of all ranks."""
    return {
        name: tally[name].total if name in _TOTALS else tally[name].mean for name in tally.names
    }
