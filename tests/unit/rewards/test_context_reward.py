"""Context reward: F-beta worked out by hand, and where the two matching rules part."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.rewards.context_reward import match_evidence, match_evidence_as_released

CHUNK_IDS = st.integers(min_value=0, max_value=20)


@pytest.mark.parametrize(
    ("cited", "evidence", "precision", "recall", "f2"),
    [
        pytest.param({4, 9}, {4, 9}, 1.0, 1.0, 1.0, id="exact"),
        # F2 = 5 P R / (4 P + R) = 5 * (2/3) / (4 * 2/3 + 1) = 10 / 11
        pytest.param({4, 9, 1}, {4, 9}, 2 / 3, 1.0, 10 / 11, id="one-extra"),
        # 5 * (2/3) / (4 * 1 + 2/3) = 10 / 14
        pytest.param({4, 9}, {4, 9, 1}, 1.0, 2 / 3, 10 / 14, id="one-missed"),
        # P = R = 1/2 -> F = 1/2 whatever beta
        pytest.param({4, 1}, {4, 9}, 0.5, 0.5, 0.5, id="half-half"),
        # an id without a chunk is a wrong id: 5 * .5 / (4 * .5 + 1)
        pytest.param({4, 999}, {4}, 0.5, 1.0, 2.5 / 3, id="unknown-id"),
        pytest.param({1}, {4, 9}, 0.0, 0.0, 0.0, id="disjoint"),
        pytest.param(set(), {4, 9}, 0.0, 0.0, 0.0, id="no-citation"),
        # every one of 64 chunks for 4: P = 1/16 -> 5/16 / (4/16 + 1) = 1/4
        pytest.param(set(range(64)), {1, 2, 3, 4}, 1 / 16, 1.0, 0.25, id="cites-everything"),
    ],
)
def test_match_equals_hand_computed_value(cited, evidence, precision, recall, f2):
    match = match_evidence(cited, evidence, beta=2.0)
    assert (match.precision, match.recall, match.f_beta) == pytest.approx((precision, recall, f2))


def test_beta_of_one_is_the_harmonic_mean():
    # P = 1/4, R = 1/2 -> 2 / (4 + 2)
    assert match_evidence({1, 5, 6, 7}, {1, 2}, beta=1.0).f_beta == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("cited", "evidence", "set_f2", "released_f2"),
    [
        # P = 1/3 -> 5/3 / (4/3 + 1) = 5/7
        pytest.param([3, 3, 3], {3}, 1.0, 5 / 7, id="right-id-three-times"),
        # set: P = 4/5 -> 4 / (16/5 + 1) = 20/21; list: P = 4/8 -> 2.5 / 3
        pytest.param([1, 2, 3, 4, 9, 9, 9, 9], {1, 2, 3, 4}, 20 / 21, 2.5 / 3, id="wrong-repeated"),
        pytest.param([], {3}, 0.0, 0.0, id="no-citation"),
    ],
)
def test_a_repeated_id_costs_precision_under_the_released_rule_alone(
    cited, evidence, set_f2, released_f2
):
    assert match_evidence(set(cited), evidence, beta=2.0).f_beta == pytest.approx(set_f2)
    released = match_evidence_as_released(cited, evidence, beta=2.0)
    assert released.f_beta == pytest.approx(released_f2)


@given(cited=st.sets(CHUNK_IDS), evidence=st.sets(CHUNK_IDS, min_size=1))
def test_rules_agree_where_nothing_is_repeated(cited, evidence):
    by_set = match_evidence(cited, evidence, beta=2.0)
    assert by_set == match_evidence_as_released(sorted(cited), evidence, beta=2.0)


@given(
    cited=st.lists(CHUNK_IDS),
    evidence=st.sets(CHUNK_IDS, min_size=1),
    beta=st.floats(min_value=0.1, max_value=10),
)
def test_f_beta_lies_between_precision_and_recall(cited, evidence, beta):
    rounding = 1e-12  # of a handful of float64 operations on values in [0, 1]
    match = match_evidence_as_released(cited, evidence, beta=beta)
    low, high = sorted((match.precision, match.recall))
    assert low - rounding <= match.f_beta <= high + rounding


@pytest.mark.parametrize(
    "match_empty_evidence",
    [
        pytest.param(lambda: match_evidence({1}, set(), beta=2.0), id="set"),
        pytest.param(lambda: match_evidence_as_released([1], set(), beta=2.0), id="released"),
    ],
)
def test_question_without_evidence_is_refused(match_empty_evidence):
    with pytest.raises(ValueError, match="without annotated evidence"):
        match_empty_evidence()
