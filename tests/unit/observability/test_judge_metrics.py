"""Metrics of the judge: every number by hand, and added over ranks that judged unequally much."""

import math
from dataclasses import replace

import pytest

from megatron_longrlvr.chat.client import Traffic
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.judge_metrics import judge_metrics, judge_tally
from megatron_longrlvr.rewards.judge.panel import PanelTraffic
from megatron_longrlvr.stages import Judgement, Verdict
from tests.unit.observability.builders import scored_sample

BY_RULE = scored_sample()
YES = replace(BY_RULE, judgement=Judgement(verdict=Verdict.YES, latency_s=0.5))
NO = replace(BY_RULE, judgement=Judgement(verdict=Verdict.NO, latency_s=1.5))
KNOWN = replace(BY_RULE, judgement=Judgement(verdict=Verdict.NO, is_cached=True))
LATE = replace(BY_RULE, judgement=Judgement(verdict=Verdict.NONE, reason="timeout", latency_s=4.0))
ALARMED = replace(YES, alarms=("verdict",))
UNPARSED = replace(BY_RULE, answer=None)
NOTHING = PanelTraffic(traffic=Traffic(), paused_s=3.0)
TRAFFIC = PanelTraffic(traffic=Traffic(requests=9, retries=4, circuit_openings=1), paused_s=3.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 5 of 7 answers were judged, 4 of them to an end.
        pytest.param(names.JUDGE_VERIFIER_DECIDED_FRAC, 2 / 7, id="verifier"),
        pytest.param(names.JUDGE_ANSWERS, 5, id="answers"),
        pytest.param(names.JUDGE_CACHED_FRAC, 1 / 5, id="cached"),
        pytest.param(names.JUDGE_YES_FRAC, 2 / 4, id="yes"),
        pytest.param(names.JUDGE_FAILED, 1, id="failed"),
        pytest.param(names.JUDGE_FAILED_FRAC, 1 / 5, id="failed-frac"),
        pytest.param("judge/failed_timeout", 1, id="timeout"),
        pytest.param("judge/failed_server_error", 0, id="server-error"),
        # (.5 + 1.5 + 4 + .5) / 4
        pytest.param(names.JUDGE_LATENCY_S_MEAN, 1.625, id="latency"),
        pytest.param(names.JUDGE_ATTACKS, 1, id="attacks"),
        pytest.param(names.JUDGE_ATTACKS_FRAC, 1 / 7, id="attacks-frac"),
        pytest.param(names.JUDGE_REQUESTS, 9, id="requests"),
        pytest.param(names.JUDGE_RETRIES, 4, id="retries"),
        pytest.param(names.JUDGE_CIRCUIT_OPENINGS, 1, id="openings"),
        pytest.param(names.JUDGE_PAUSED_S, 3, id="paused"),
    ],
)
def test_metric_by_hand_over_two_ranks(name, expected):
    one = judge_tally([BY_RULE, YES, NO, KNOWN, LATE, UNPARSED], TRAFFIC)
    other = judge_tally([ALARMED, BY_RULE], NOTHING)
    assert judge_metrics(one + other)[name] == pytest.approx(expected)


def test_without_a_verdict_nothing_is_said_about_yes():
    metrics = judge_metrics(judge_tally([LATE], NOTHING))
    assert math.isnan(metrics[names.JUDGE_YES_FRAC])
