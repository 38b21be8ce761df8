"""Reward variants: values by hand, and the order of outcomes that the combination promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.config.task import ContextRewardConfig, RewardsConfig
from megatron_longrlvr.rewards.composite import VARIANTS, answer_and_context, compose_reward

UNIT = st.floats(min_value=0, max_value=1)
EVIDENCE = frozenset({1, 2})
# The set {1, 2, 7} has P = 2/3, R = 1 -> F2 = (10/3) / (8/3 + 1) = 10/11; as written, with 7
# twice, P = 1/2 -> F2 = 2.5 / 3 = 5/6.
CITED = (1, 7, 2, 7)


def compose(variant, *, answer, cited=CITED, eta=0.1):
    config = RewardsConfig(variant=variant, context=ContextRewardConfig(beta=2.0, eta=eta))
    return compose_reward(config, answer=answer, cited=cited, evidence=EVIDENCE)


@pytest.mark.parametrize(
    ("variant", "answer", "expected"),
    [
        pytest.param("longrlvr", 0.0, 0.1 * 10 / 11, id="longrlvr-wrong"),
        pytest.param("longrlvr", 1.0, 1 + 10 / 11, id="longrlvr-right"),
        # half an answer: .5 + (.1 + .9 * .5) * F
        pytest.param("longrlvr", 0.5, 0.5 + 0.55 * 10 / 11, id="longrlvr-half-right"),
        pytest.param("authors_code", 0.0, 0.1 * 5 / 6, id="authors-code-wrong"),
        pytest.param("authors_code", 1.0, 1 + 5 / 6, id="authors-code-right"),
        pytest.param("outcome_only", 0.0, 0.0, id="outcome-only-wrong"),
        pytest.param("outcome_only", 1.0, 1.0, id="outcome-only-right"),
        pytest.param("context_only", 0.0, 10 / 11, id="context-only-wrong"),
        pytest.param("context_only", 1.0, 10 / 11, id="context-only-right"),
    ],
)
def test_total_equals_hand_computed_value(variant, answer, expected):
    assert compose(variant, answer=answer).total == pytest.approx(expected)


def test_outcome_only_still_reports_the_context_parts():
    assert compose("outcome_only", answer=1.0).match.f_beta == pytest.approx(10 / 11)


def test_eta_of_zero_pays_citations_only_together_with_the_answer():
    assert compose("longrlvr", answer=0.0, eta=0.0).total == 0.0
    assert compose("longrlvr", answer=1.0, eta=0.0).total == pytest.approx(1 + 10 / 11)


@given(f_beta=UNIT, eta=UNIT, answer=UNIT)
def test_a_right_answer_never_pays_less_than_a_worse_one(f_beta, eta, answer):
    assert answer_and_context(1.0, f_beta, eta) >= answer_and_context(answer, f_beta, eta)


@given(f_beta=UNIT, eta=UNIT)
def test_eta_does_not_matter_once_the_answer_is_right(f_beta, eta):
    assert answer_and_context(1.0, f_beta, eta) == pytest.approx(1 + f_beta)


def test_every_variant_of_the_schema_has_a_rule():
    field = RewardsConfig.model_fields["variant"]
    assert set(field.annotation.__args__) == set(VARIANTS)
