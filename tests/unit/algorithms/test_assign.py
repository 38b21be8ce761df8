"""Assignment of advantages: who keeps one, who is left out, and that both are counted."""

import pytest

from megatron_longrlvr.algorithms.assign import assign_advantages, whiten_advantages
from megatron_longrlvr.algorithms.packing import Peers
from megatron_longrlvr.stages import ScoredBatch
from tests.unit.algorithms.builders import algorithm, prompt, scored_sample

SPREAD = [1.0, 2.0, 3.0]  # grpo advantages -1, 0, 1
EQUAL = [2.0, 2.0, 2.0]
# Sums over 4 samples and over 6 with two masked ones may associate differently.
FLOAT32_RTOL = 2**-22


def scored_batch(*groups, invalid=()):
    """A batch of groups of 3 rewards; ``invalid`` holds (group, index) pairs."""
    scored = [
        scored_sample(
            prompt(f"p{place}"), index, reward=reward, is_valid=(place, index) not in invalid
        )
        for place, rewards in enumerate(groups)
        for index, reward in enumerate(rewards)
    ]
    return ScoredBatch(step=7, group_size=3, scored=scored)


def kept_ids(batch):
    return [(each.sample.prompt.prompt_id, each.sample.sample_index) for each in batch.scored]


def by_sample(batch):
    """The one advantage of each sample, which all of its tokens have."""
    for values, each in zip(batch.advantages, batch.scored, strict=True):
        assert values == [values[0]] * len(each.sample.token_ids)
    return [values[0] for values in batch.advantages]


def test_group_without_spread_is_dropped_and_counted():
    batch = assign_advantages(scored_batch(EQUAL, SPREAD), algorithm())
    assert kept_ids(batch) == [("p1", 0), ("p1", 1), ("p1", 2)]
    assert by_sample(batch) == pytest.approx([-1.0, 0.0, 1.0])
    assert (batch.step, batch.num_groups, batch.num_dropped_groups) == (7, 2, 1)


def test_group_without_spread_stays_with_advantage_zero_on_request():
    config = algorithm(drop_uninformative_groups=False)
    batch = assign_advantages(scored_batch(EQUAL, SPREAD), config)
    assert by_sample(batch) == pytest.approx([0.0, 0.0, 0.0, -1.0, 0.0, 1.0])
    assert (batch.num_groups, batch.num_dropped_groups) == (2, 0)


@pytest.mark.parametrize("drops", [True, False])
def test_invalid_sample_is_left_out_and_its_siblings_are_judged_without_it(drops):
    config = algorithm(advantage="dr_grpo", drop_uninformative_groups=drops)
    batch = assign_advantages(scored_batch([9.0, 1.0, 3.0], invalid={(0, 0)}), config)
    assert kept_ids(batch) == [("p0", 1), ("p0", 2)]
    assert by_sample(batch) == pytest.approx([-1.0, 1.0])


@pytest.mark.parametrize("drops", [True, False])
def test_a_valid_sample_without_a_valid_sibling_is_left_out_and_its_group_counted(drops):
    config = algorithm(drop_uninformative_groups=drops)
    invalid = {(0, 0), (0, 2)}
    batch = assign_advantages(scored_batch(SPREAD, SPREAD, invalid=invalid), config)
    assert kept_ids(batch) == [("p1", 0), ("p1", 1), ("p1", 2)]
    assert (batch.num_groups, batch.num_dropped_groups) == (2, 1)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo", "leave_one_out"])
def test_advantages_equal_those_of_a_batch_in_which_invalid_samples_never_were(kind):
    config = algorithm(advantage=kind)
    whole = ScoredBatch(
        step=7,
        group_size=6,
        scored=[
            scored_sample(prompt("p"), index, reward=reward, is_valid=index not in (1, 4))
            for index, reward in enumerate([0.1, 9.0, 1.3, 2.0, -5.0, 0.7])
        ],
    )
    survivors = ScoredBatch(
        step=7, group_size=4, scored=[each for each in whole.scored if each.is_valid]
    )
    left, alone = assign_advantages(whole, config), assign_advantages(survivors, config)
    assert kept_ids(left) == kept_ids(alone) == [("p", 0), ("p", 2), ("p", 3), ("p", 5)]
    assert by_sample(left) == pytest.approx(by_sample(alone), rel=FLOAT32_RTOL)


def test_group_of_invalid_samples_counts_as_dropped_whatever_the_rule():
    config = algorithm(drop_uninformative_groups=False)
    invalid = {(0, 0), (0, 1), (0, 2)}
    batch = assign_advantages(scored_batch(SPREAD, SPREAD, invalid=invalid), config)
    assert (len(batch.scored), batch.num_groups, batch.num_dropped_groups) == (3, 2, 1)


def test_empty_batch_stays_empty():
    batch = assign_advantages(scored_batch(), algorithm())
    assert (batch.scored, batch.advantages, batch.num_groups) == ([], [], 0)


def test_kind_of_advantage_comes_from_the_recipe():
    batch = assign_advantages(scored_batch([1.0, 2.0, 6.0]), algorithm(advantage="rloo"))
    assert by_sample(batch) == pytest.approx([-3.0, -1.5, 4.5])


def whitened(*ranks, rank=0):
    """Advantages of one of several ranks, whose rewards are given by group."""
    config = algorithm(advantage="dr_grpo")
    batches = [assign_advantages(scored_batch(*groups), config) for groups in ranks]
    peers = Peers(
        rank=rank, size=len(ranks), gather=lambda _: [batch.advantages for batch in batches]
    )
    return by_sample(whiten_advantages(batches[rank], peers))


def test_whitened_advantages_have_one_scale_over_all_ranks():
    # Rewards minus group means: -1 0 1 on one rank, -3 0 3 on the other; variance 20 / 5.
    ranks = ([SPREAD], [[0.0, 3.0, 6.0]])
    assert whitened(*ranks, rank=0) == pytest.approx([-0.5, 0.0, 0.5])
    assert whitened(*ranks, rank=1) == pytest.approx([-1.5, 0.0, 1.5])


def test_whitening_leaves_alone_what_has_no_spread():
    assert whitened([], []) == []
    assert whitened([], [SPREAD], rank=0) == []
    config = algorithm(drop_uninformative_groups=False)
    batch = assign_advantages(scored_batch(EQUAL), config)
    assert by_sample(whiten_advantages(batch)) == [0.0, 0.0, 0.0]
