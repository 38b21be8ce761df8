"""Paired comparison: p-values against hand-made binomial sums, pairing by cell and question."""

import math

import pytest

from megatron_longrlvr.evaluation.scoring.comparison import compare, mcnemar_p

FIRST = {"a": {"1": 1.0, "2": 0.0, "3": 0.0, "4": 1.0}}
SECOND = {"a": {"1": 1.0, "2": 1.0, "3": 1.0, "5": 0.0}}


@pytest.mark.parametrize(
    ("first_only", "second_only", "expected"),
    [
        pytest.param(0, 0, 1.0, id="no-difference"),
        pytest.param(3, 3, 1.0, id="balanced"),
        # 2 * (1 + 6) / 2**6
        pytest.param(1, 5, 14 / 64, id="one-against-five"),
        # 2 / 2**10
        pytest.param(10, 0, 2 / 1024, id="ten-against-none"),
    ],
)
def test_mcnemar(first_only, second_only, expected):
    assert mcnemar_p(first_only, second_only) == pytest.approx(expected)


def test_mcnemar_of_many_pairs_does_not_underflow():
    # 2000 tosses, 950 heads: z = 49.5 / sqrt(500) with the continuity correction.
    normal = math.erfc(49.5 / math.sqrt(500) / math.sqrt(2))
    assert mcnemar_p(950, 1050) == pytest.approx(normal, rel=0.01)  # of the approximation


def test_only_shared_questions_are_compared():
    (one,) = compare({"soft": FIRST, "stored": FIRST}, {"soft": SECOND}, seed=0)
    # Questions 1, 2, 3: differences 0, 1, 1.
    assert one.difference.num_items == 3
    assert one.difference.mean == pytest.approx(2 / 3)
    assert (one.num_first_only, one.num_second_only) == (0, 2)
    assert one.mcnemar_p == pytest.approx(0.5)


def test_partial_scores_have_no_mcnemar_test():
    (one,) = compare({"r": {"a": {"1": 0.5}}}, {"r": {"a": {"1": 1.0}}}, seed=0)
    assert one.mcnemar_p is None
    assert one.num_second_only == 1


def test_bootstrap_p_is_small_for_a_clear_difference_and_1_for_none():
    zeros = {"a": {str(item): 0.0 for item in range(30)}}
    ones = {"a": {str(item): 1.0 for item in range(30)}}
    (clear,) = compare({"r": zeros}, {"r": ones}, seed=0)
    assert clear.bootstrap_p == pytest.approx(2 / 10_001)
    (none,) = compare({"r": zeros}, {"r": zeros}, seed=0)
    assert none.bootstrap_p == 1.0


def test_bootstrap_p_agrees_with_the_normal_test():
    # 200 questions, 60 better, 40 worse: mean 0.1, variance 0.5 - 0.01.
    changes = [1.0] * 60 + [-1.0] * 40 + [0.0] * 100
    first = {"a": {str(item): 0.5 for item in range(200)}}
    second = {"a": {str(item): 0.5 + change / 2 for item, change in enumerate(changes)}}
    (one,) = compare({"r": first}, {"r": second}, seed=0)
    normal = math.erfc(0.1 / math.sqrt(0.49 / 200) / math.sqrt(2))
    assert one.bootstrap_p == pytest.approx(normal, abs=0.01)  # draws, and steps of one item


def test_files_without_a_shared_question_are_refused():
    with pytest.raises(ValueError, match="share no question"):
        compare({"r": {"a": {"1": 1.0}}}, {"r": {"b": {"1": 1.0}}}, seed=0)
