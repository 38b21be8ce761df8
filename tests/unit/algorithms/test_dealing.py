"""Dealing groups to updates and ranks: by hand, and even whatever the lengths.

A bound for longest-processing-time: a rank's load exceeds the mean by less than the largest group
and the slack that keeps a group where it is.
"""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.algorithms.dealing import (
    GroupShape,
    Place,
    deal_groups,
    load_imbalance,
)

SLACK = 0.02


def shapes_of(costs):
    """Groups by rank; the cost of a group is the length of its prompt."""
    return [[GroupShape(num_prompt_tokens=c, response_tokens=(1,)) for c in held] for held in costs]


def prompt_tokens(shape):
    return shape.num_prompt_tokens


def deal(costs, *, num_updates=1):
    return deal_groups(shapes_of(costs), num_updates=num_updates, cost=prompt_tokens)


def loads(costs, places, *, update=0):
    total = [0] * len(costs)
    for held, dealt in zip(costs, places, strict=True):
        for cost, place in zip(held, dealt, strict=True):
            total[place.rank] += cost if place.update == update else 0
    return total


def test_long_groups_go_to_the_rank_with_least_work():
    # 9, 8, 4, 3 all on rank 0: 9 | 8, then 4 joins 8, 3 joins 9.
    costs = [[9, 8, 4, 3], []]
    places = deal(costs)
    assert [place.rank for place in places[0]] == [0, 1, 1, 0]
    assert loads(costs, places) == [12, 12]


def test_even_groups_stay_where_they_are():
    costs = [[100, 99, 101], [101, 100, 100]]
    assert [[place.rank for place in held] for held in deal(costs)] == [[0, 0, 0], [1, 1, 1]]


@given(
    costs=st.lists(
        st.lists(st.integers(1, 1000), min_size=0, max_size=6), min_size=1, max_size=4
    ).filter(lambda costs: any(costs)),
    num_updates=st.integers(1, 3),
)
def test_updates_hold_equally_many_groups_and_ranks_equal_work(costs, num_updates):
    places = deal(costs, num_updates=num_updates)
    numbers = [
        sum(place.update == update for place in chain(*places)) for update in range(num_updates)
    ]
    assert max(numbers) - min(numbers) <= 1
    slack = SLACK * sum(map(sum, costs)) / (num_updates * len(costs))
    for update in range(num_updates):
        load = loads(costs, places, update=update)
        largest = max(chain(*costs))
        assert max(load) <= sum(load) / len(load) + largest + slack


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [pytest.param([0, 0, 1], 5 / 3, id="5-of-6"), pytest.param([0, 1, 1], 1.0, id="even")],
)
def test_imbalance_is_the_busiest_over_the_mean(ranks, expected):
    # costs 3, 2, 1 on two ranks: the mean is 3
    places = [[Place(update=0, rank=rank) for rank in ranks], []]
    shapes = shapes_of([[3, 2, 1], []])
    assert load_imbalance(shapes, places, update=0, cost=prompt_tokens) == pytest.approx(expected)


def test_update_without_work_is_even():
    assert load_imbalance([[], []], [[], []], update=0, cost=prompt_tokens) == 1.0
