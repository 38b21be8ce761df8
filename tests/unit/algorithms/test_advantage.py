"""Group advantages: values by hand for each kind, and the invariances all of them promise."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from megatron_longrlvr.algorithms.advantage import ADVANTAGES, group_advantages
from megatron_longrlvr.config.training import AlgorithmConfig

NAN = float("nan")
KINDS = sorted(ADVANTAGES)

# Results are float32 (relative rounding 6e-8) of float64 arithmetic on rewards up to 7 that lie
# at least 0.01 apart, which adds 1e-13 at most.
FLOAT32_RTOL = 1e-6
FLOAT32_ATOL = 1e-6

# Multiples of 0.01, as F-beta and answers make them: the spread is 0 or well above rounding.
REWARD = st.integers(min_value=0, max_value=200).map(lambda cents: cents / 100)
GROUP = st.lists(REWARD, min_size=2, max_size=8)


def advantages_of(rewards, *, kind, is_valid=None):
    valid = [True] * len(rewards) if is_valid is None else is_valid
    groups = group_advantages(
        torch.tensor([rewards], dtype=torch.float64),
        is_valid=torch.tensor([valid], dtype=torch.bool),
        kind=kind,
    )
    return groups.values[0].tolist(), bool(groups.is_informative[0])


@pytest.mark.parametrize(
    ("kind", "rewards", "expected"),
    [
        # mean 2, squares 1 + 1, std sqrt(2 / 2)
        pytest.param("grpo", [1.0, 2.0, 3.0], [-1.0, 0.0, 1.0], id="grpo"),
        # mean 1/4, std sqrt((9/16 + 3/16) / 3) = 1/2
        pytest.param("grpo", [1.0, 0.0, 0.0, 0.0], [1.5, -0.5, -0.5, -0.5], id="grpo-one-right"),
        # n = 2: +-(d/2) / (d / sqrt 2)
        pytest.param("grpo", [5.0, 3.0], [math.sqrt(0.5), -math.sqrt(0.5)], id="grpo-pair"),
        pytest.param("dr_grpo", [1.0, 2.0, 6.0], [-2.0, -1.0, 3.0], id="dr-grpo"),
        # others' means 4, 3.5, 1.5
        pytest.param("rloo", [1.0, 2.0, 6.0], [-3.0, -1.5, 4.5], id="rloo"),
        # others: (2,6) mean 4 std sqrt 8; (1,6) 3.5, sqrt 12.5; (1,2) 1.5, sqrt .5
        pytest.param(
            "leave_one_out",
            [1.0, 2.0, 6.0],
            [-3 / math.sqrt(8), -1.5 / math.sqrt(12.5), 4.5 / math.sqrt(0.5)],
            id="leave-one-out",
        ),
        # first: others equal, so the group's std 1/2: 1 / .5; rest: mean 1/3, std sqrt(1/3)
        pytest.param(
            "leave_one_out",
            [1.0, 0.0, 0.0, 0.0],
            [2.0, -math.sqrt(1 / 3), -math.sqrt(1 / 3), -math.sqrt(1 / 3)],
            id="leave-one-out-equal-others",
        ),
        # a single other has no std: the group's, 2 / sqrt 2
        pytest.param(
            "leave_one_out", [5.0, 3.0], [math.sqrt(2), -math.sqrt(2)], id="leave-one-out-pair"
        ),
    ],
)
def test_advantages_equal_hand_computed_values(kind, rewards, expected):
    values, is_informative = advantages_of(rewards, kind=kind)
    assert values == pytest.approx(expected, rel=FLOAT32_RTOL)
    assert is_informative


@pytest.mark.parametrize("kind", KINDS)
@given(group=GROUP, shift=st.integers(min_value=-5, max_value=5))
def test_adding_a_constant_to_all_rewards_changes_nothing(kind, group, shift):
    values, is_informative = advantages_of(group, kind=kind)
    assume(is_informative)
    shifted, _ = advantages_of([reward + shift for reward in group], kind=kind)
    assert shifted == pytest.approx(values, rel=FLOAT32_RTOL, abs=FLOAT32_ATOL)


@pytest.mark.parametrize("kind", ["grpo", "leave_one_out"])
@given(group=GROUP, factor=st.sampled_from([0.5, 2.0, 64.0]))
def test_scaling_the_rewards_changes_nothing_where_a_std_divides(kind, group, factor):
    values, is_informative = advantages_of(group, kind=kind)
    assume(is_informative)
    scaled, _ = advantages_of([reward * factor for reward in group], kind=kind)
    assert scaled == pytest.approx(values, rel=FLOAT32_RTOL, abs=FLOAT32_ATOL)


@pytest.mark.parametrize("kind", KINDS)
@given(group=GROUP, failures=st.lists(st.integers(min_value=0, max_value=2), max_size=3))
def test_failed_samples_do_not_move_their_siblings(kind, group, failures):
    alone, _ = advantages_of(group, kind=kind)
    rewards, is_valid = list(group), [True] * len(group)
    for place in failures:
        rewards.insert(place, NAN)
        is_valid.insert(place, False)
    together, _ = advantages_of(rewards, kind=kind, is_valid=is_valid)
    siblings = [value for value, valid in zip(together, is_valid, strict=True) if valid]
    assert siblings == pytest.approx(alone, rel=FLOAT32_RTOL, abs=FLOAT32_ATOL)
    assert all(value == 0 for value, valid in zip(together, is_valid, strict=True) if not valid)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
@given(group=GROUP)
def test_advantages_of_a_group_add_up_to_nothing(kind, group):
    values, _ = advantages_of(group, kind=kind)
    assert sum(values) == pytest.approx(0.0, abs=8 * FLOAT32_ATOL)


@given(group=GROUP)
def test_rloo_is_dr_grpo_stretched_by_n_over_n_minus_one(group):
    stretch = len(group) / (len(group) - 1)
    centred, _ = advantages_of(group, kind="dr_grpo")
    left_out, _ = advantages_of(group, kind="rloo")
    expected = [stretch * value for value in centred]
    assert left_out == pytest.approx(expected, rel=FLOAT32_RTOL, abs=FLOAT32_ATOL)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rewards", "is_valid"),
    [
        # 0.1 is no binary fraction: a mean of seven is off by rounding
        pytest.param([0.1] * 7, [True] * 7, id="equal"),
        pytest.param([1.0, 0.0, 0.0], [True, False, False], id="one-valid"),
        pytest.param([1.0, NAN, 1.0], [True, False, True], id="equal-but-for-a-failure"),
        pytest.param([NAN, NAN], [False, False], id="none-valid"),
    ],
)
def test_group_without_spread_is_uninformative_and_gets_no_advantage(kind, rewards, is_valid):
    values, is_informative = advantages_of(rewards, kind=kind, is_valid=is_valid)
    assert values == [0.0] * len(rewards)
    assert not is_informative


def test_groups_do_not_mix():
    rewards = torch.tensor([[1.0, 2.0, 3.0], [30.0, 20.0, 10.0], [5.0, 5.0, 5.0]])
    groups = group_advantages(rewards, is_valid=torch.ones(3, 3, dtype=torch.bool), kind="grpo")
    assert groups.values.tolist() == [[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
    assert groups.is_informative.tolist() == [True, True, False]


def test_no_groups_give_no_advantages():
    groups = group_advantages(
        torch.zeros(0, 4), is_valid=torch.zeros(0, 4, dtype=torch.bool), kind="leave_one_out"
    )
    assert groups.values.shape == (0, 4)
    assert groups.is_informative.shape == (0,)


def test_mismatched_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        group_advantages(
            torch.zeros(2, 3), is_valid=torch.ones(2, 4, dtype=torch.bool), kind="grpo"
        )


def test_every_kind_of_the_schema_has_a_rule():
    named = set(AlgorithmConfig.model_fields["advantage"].annotation.__args__)
    assert named == {*ADVANTAGES, "gae"}  # which a critic computes
