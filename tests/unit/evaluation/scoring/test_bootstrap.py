"""Bootstrap intervals: the mean over cells, seeded, and as wide as theory says."""

import math

import pytest

from megatron_longrlvr.evaluation.scoring.bootstrap import estimate_mean

# The interval comes from 10,000 draws; its ends are quantiles at 2.5 % and scatter by about 2 % of
# the width, and the normal approximation is off by less than one item in 400.
INTERVAL_ATOL = 0.005


def test_cells_weigh_the_same_whatever_their_size():
    estimate = estimate_mean({"a": [1.0, 1.0, 1.0, 1.0], "b": [0.0]}, seed=0)
    assert estimate.mean == 0.5
    assert estimate.num_items == 5


def test_interval_agrees_with_the_normal_approximation():
    # 400 questions, 100 right: standard error sqrt(0.25 * 0.75 / 400).
    values = [1.0] * 100 + [0.0] * 300
    estimate = estimate_mean({"a": values}, seed=0)
    half_width = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert estimate.low == pytest.approx(0.25 - half_width, abs=INTERVAL_ATOL)
    assert estimate.high == pytest.approx(0.25 + half_width, abs=INTERVAL_ATOL)


def test_interval_of_values_between_0_and_1_agrees_too():
    # Uniform on 21 steps: variance (21**2 - 1) / 12 steps of 1/20 squared.
    values = [step / 20 for step in range(21)] * 20
    estimate = estimate_mean({"a": values}, seed=0)
    half_width = 1.96 * math.sqrt((21**2 - 1) / 12 / 20**2 / len(values))
    assert estimate.high - estimate.low == pytest.approx(2 * half_width, abs=2 * INTERVAL_ATOL)


def test_two_cells_narrow_the_interval_like_independent_means():
    values = [1.0] * 100 + [0.0] * 300
    one = estimate_mean({"a": values}, seed=0)
    two = estimate_mean({"a": values, "b": values}, seed=0)
    expected = (one.high - one.low) / math.sqrt(2)
    assert two.high - two.low == pytest.approx(expected, abs=2 * INTERVAL_ATOL)


def test_same_seed_gives_the_same_interval_in_any_order_of_cells():
    cells = {"a": [1.0, 0.0, 1.0], "b": [0.0, 0.5, 1.0]}
    backwards = {"b": [1.0, 0.5, 0.0], "a": [1.0, 1.0, 0.0]}
    assert estimate_mean(cells, seed=3) == estimate_mean(backwards, seed=3)


def test_equal_values_have_no_width():
    estimate = estimate_mean({"a": [1.0] * 5}, seed=0)
    assert (estimate.low, estimate.high) == (1.0, 1.0)
