"""Alarms: what a response looks like, from which share on the run says so, and length drift."""

import pytest

from megatron_longrlvr.config.alarms import AlarmsConfig
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.alarms import (
    ALARMS,
    LENGTH_DRIFT,
    LengthDrift,
    alarm_tally,
    find_alarms,
    raised_alarms,
)
from tests.unit.observability.builders import scored_sample

CONFIG = AlarmsConfig()
PROSE = (
    "The committee met on Tuesday to look at three proposals. It preferred the second, which "
    "costs less and can be finished before winter; two members asked for another survey of the "
    "bridge, since the last one was made by people who had never seen its northern pier."
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"cited": (1,)}, [], id="ordinary"),
        # 2 of 4 chunks is half of the document.
        pytest.param({"cited": (1, 2)}, ["cites_everything"], id="cites-half"),
        pytest.param({"cited": (1, 1, 1, 1)}, [], id="one-chunk-again-and-again"),
        pytest.param({"cited": (7, 8, 9)}, [], id="chunks-that-are-not-there"),
        pytest.param({"cited": ()}, ["cites_nothing"], id="cites-nothing"),
        pytest.param({"cited": (1,), "text": PROSE}, [], id="prose"),
        pytest.param({"cited": (1,), "text": "so it goes, " * 30}, ["repeats"], id="loop"),
        pytest.param({"cited": (1,), "text": "so it goes, " * 20}, [], id="too-short-to-tell"),
    ],
)
def test_response_looks_like(changes, expected):
    assert find_alarms(scored_sample(**changes), CONFIG) == expected


@pytest.mark.parametrize(
    ("answer", "is_copy"),
    [
        pytest.param("in the OLD town", True, id="word-for-word"),
        pytest.param("old town", False, id="too-few-words"),
        pytest.param("the old city", False, id="other-words"),
        pytest.param("n the old town", False, id="part-of-a-word"),
        pytest.param(None, False, id="no-answer"),
    ],
)
def test_answer_copied_from_the_question(answer, is_copy):
    scored = scored_sample(
        cited=(1,), answer_text=answer, question="Who lived, in the old town, by the river?"
    )
    assert find_alarms(scored, CONFIG) == (["copies_question"] if is_copy else [])


def test_shares_are_of_all_samples():
    scored = [scored_sample(cited=()), scored_sample(cited=(1,)), scored_sample(is_valid=False)]
    means = alarm_tally(scored, CONFIG).means()
    assert means[names.alarm_frac("cites_nothing")] == pytest.approx(2 / 3)
    assert means[names.alarm_frac("repeats")] == 0
    assert set(means) == {names.alarm_frac(alarm) for alarm in ALARMS}


def test_alarm_is_raised_from_its_threshold_on():
    def raised(frac, ratio):
        found = {names.alarm_frac("repeats"): frac, names.ALARM_LENGTH_RATIO: ratio}
        return raised_alarms(found, CONFIG)

    assert raised(0.19, 2.0) == []
    assert raised(0.2, 1.0) == ["repeats"]
    assert raised(0.0, 2.01) == [LENGTH_DRIFT]
    assert raised(0.0, 0.49) == [LENGTH_DRIFT]
    assert raised(0.0, 0.5) == []


def test_length_is_compared_with_the_first_steps():
    drift = LengthDrift(2)
    assert [drift.ratio(length) for length in (10, 30, 60, 10)] == [1, 1, 3, 0.5]


def test_a_resumed_run_keeps_its_baseline():
    assert LengthDrift(2, earlier=[10, 30, 99]).ratio(60) == 3
    drift = LengthDrift(2, earlier=[10])
    assert [drift.ratio(length) for length in (30, 60)] == [1, 3]
