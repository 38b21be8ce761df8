"""Packing: records by hand, and a loss that does not know how it was laid out.

Groups move between ranks, and a group's prompt may stand once for all of its samples.

What is promised: the loss of an update, summed over ranks, micro-batches and tokens, is what the
normaliser says about all of the update's samples at once, however those are ordered, spread over
ranks or cut into micro-batches. With x_it a token's unweighted loss, i a sample of len_i tokens:

    token_mean     sum_it x_it / sum_i len_i
    sequence_mean  mean_i (sum_t x_it / len_i)
    constant       sum_it x_it / (max_response_tokens * number of samples)
"""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.algorithms.packing import Peers, pack
from megatron_longrlvr.algorithms.policy_loss import PolicyLossInput, policy_loss
from megatron_longrlvr.algorithms.rows import experts_of
from megatron_longrlvr.stages import ExpertChoices, Segment
from tests.unit.algorithms.builders import advantage_batch, algorithm, prompt, scored_sample

MAX_RESPONSE_TOKENS = 8
NORMALIZERS = ["token_mean", "sequence_mean", "constant"]

# Sums of at most some hundred float32 terms of size 1, divided by their number.
FLOAT32_ATOL = 1e-6

# [(prompt tokens, response tokens of each sample)]
LENGTHS = st.lists(
    st.tuples(
        st.integers(min_value=1, max_value=6),
        st.lists(st.integers(min_value=1, max_value=MAX_RESPONSE_TOKENS), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def groups_of(lengths):
    """Groups of (scored sample, advantage), all advantages different."""
    groups = []
    for place, (num_prompt_tokens, response_lengths) in enumerate(lengths):
        of = prompt(f"p{place}", num_tokens=num_prompt_tokens)
        samples = [
            scored_sample(of, index, num_tokens=length)
            for index, length in enumerate(response_lengths)
        ]
        groups.append([(each, 1.0 + place - 0.7 * i) for i, each in enumerate(samples)])
    return groups


def batch_of(groups):
    flat = [pair for group in groups for pair in group]
    return advantage_batch([scored for scored, _ in flat], [value for _, value in flat], step=5)


def pack_ranks(batches, config):
    """Pack several ranks, each in a thread of its own that meets the others in each collective."""
    barrier, boxes = threading.Barrier(len(batches)), [None] * len(batches)

    def gather(rank, value):
        boxes[rank] = value
        barrier.wait()
        gathered = list(boxes)
        barrier.wait()
        return gathered

    def pack_rank(rank):
        peers = Peers(rank=rank, size=len(batches), gather=partial(gather, rank))
        return pack(
            batches[rank], config=config, max_response_tokens=MAX_RESPONSE_TOKENS, peers=peers
        )

    with ThreadPoolExecutor(len(batches)) as pool:
        return list(pool.map(pack_rank, range(len(batches))))


def pack_alone(batch, config):
    (updates,) = pack_ranks([batch], config)
    return updates


def loss_of(micro_batch, config):
    """The real loss, for a policy that has moved by an amount that depends on the token."""
    behavior = micro_batch.behavior_logprobs[micro_batch.is_response]
    drift = 0.3 * torch.sin(micro_batch.token_ids[micro_batch.is_response].float())
    inputs = PolicyLossInput(
        policy_logprobs=behavior + drift,
        proximal_logprobs=behavior,
        behavior_logprobs=behavior,
        advantages=micro_batch.advantages[micro_batch.is_response],
        loss_weights=micro_batch.loss_weights[micro_batch.is_response],
        entropy=torch.zeros_like(behavior),
        reference_logprobs=None,
    )
    return policy_loss(inputs, config).loss.item()


def total_loss(ranks, config):
    return sum(
        loss_of(micro_batch, config)
        for updates in ranks
        for update in updates
        for micro_batch in update.micro_batches
    )


def loss_by_definition(groups, normalizer, config):
    """The formula of the module's docstring, sample by sample, without packing."""
    sums, lengths = [], []
    for scored, advantage in [pair for group in groups for pair in group]:
        ratios = [math.exp(0.3 * math.sin(token)) for token in scored.sample.token_ids]
        low, high, dual = 1 - config.clip_low, 1 + config.clip_high, config.dual_clip
        bounded = [min(r, high) if advantage >= 0 else min(max(r, low), dual) for r in ratios]
        sums.append(-advantage * sum(bounded))
        lengths.append(len(ratios))
    if normalizer == "token_mean":
        return sum(sums) / sum(lengths)
    if normalizer == "sequence_mean":
        return sum(total / length for total, length in zip(sums, lengths, strict=True)) / len(sums)
    return sum(sums) / (MAX_RESPONSE_TOKENS * len(sums))


def sample_ids(update):
    return [name for micro_batch in update.micro_batches for name in micro_batch.sample_ids]


def test_micro_batch_holds_samples_one_after_the_other():
    # p0/1: 2 + 3 tokens is longest and first; p0/0: 2 + 1. Token ids and logprobs by builders.
    of = prompt("p0", num_tokens=2)
    scored = [scored_sample(of, 0, num_tokens=1), scored_sample(of, 1, num_tokens=3)]
    config = algorithm(shared_prompt=False)
    (update,) = pack_alone(advantage_batch(scored, [-1.5, 0.5], step=5), config)
    (packed,) = update.micro_batches
    assert packed.sample_ids == ["p0/1", "p0/0"]
    assert packed.token_ids.tolist() == [0, 1, 100, 101, 102, 0, 1, 0]
    assert packed.segments == [Segment(num_tokens=5), Segment(num_tokens=3)]
    assert packed.is_response.tolist() == [False, False, True, True, True, False, False, True]
    assert packed.advantages.tolist() == [0, 0, 0.5, 0.5, 0.5, 0, 0, -1.5]
    behavior = [0, 0, -0.11, -0.21, -0.31, 0, 0, -0.1]
    assert packed.behavior_logprobs.tolist() == pytest.approx(behavior)
    assert packed.loss_weights.tolist() == [0, 0, 0.25, 0.25, 0.25, 0, 0, 0.25]
    assert packed.token_ids.dtype == torch.int64
    assert (update.step, update.num_global_response_tokens, update.num_global_samples) == (5, 4, 2)


def test_shared_prompt_stands_once_before_its_responses():
    # The same samples: 2 prompt tokens, then 3 of p0/1 and 1 of p0/0.
    of = prompt("p0", num_tokens=2)
    scored = [scored_sample(of, 0, num_tokens=1), scored_sample(of, 1, num_tokens=3)]
    (update,) = pack_alone(advantage_batch(scored, [-1.5, 0.5], step=5), algorithm())
    (packed,) = update.micro_batches
    assert packed.sample_ids == ["p0/1", "p0/0"]
    assert packed.token_ids.tolist() == [0, 1, 100, 101, 102, 0]
    assert packed.segments == [
        Segment(num_tokens=2),
        Segment(num_tokens=3, continues=0),
        Segment(num_tokens=1, continues=0),
    ]
    assert packed.is_response.tolist() == [False, False, True, True, True, True]
    assert packed.advantages.tolist() == [0, 0, 0.5, 0.5, 0.5, -1.5]
    behavior = [0, 0, -0.11, -0.21, -0.31, -0.1]
    assert packed.behavior_logprobs.tolist() == pytest.approx(behavior)
    assert packed.loss_weights.tolist() == [0, 0, 0.25, 0.25, 0.25, 0.25]


def test_group_above_the_budget_is_split_and_its_prompt_repeated():
    # Prompt 4, responses 5, 3, 2, 1 under 11: [4 | 5 2] is full, then [4 | 3 1].
    groups = groups_of([(4, [5, 3, 2, 1])])
    (update,) = pack_alone(batch_of(groups), algorithm(micro_batch_tokens=11))
    assert [list(packed.sample_ids) for packed in update.micro_batches] == [
        ["p0/0", "p0/2"],
        ["p0/1", "p0/3"],
    ]
    assert update.num_repeated_prompt_tokens == 4


def test_groups_share_a_micro_batch():
    groups = groups_of([(4, [1, 1]), (5, [2])])
    (update,) = pack_alone(batch_of(groups), algorithm(micro_batch_tokens=13))
    (packed,) = update.micro_batches
    # A group of one sample is one segment.
    assert packed.segments == [
        Segment(num_tokens=7),
        Segment(num_tokens=4),
        Segment(num_tokens=1, continues=1),
        Segment(num_tokens=1, continues=1),
    ]
    assert update.num_repeated_prompt_tokens == 0


@pytest.mark.parametrize(
    ("normalizer", "weight_of_1", "weight_of_3"),
    [
        # this rank: samples of 1 and 3 tokens; over all ranks: 10 tokens in 4 samples
        pytest.param("token_mean", 1 / 10, 1 / 10, id="token-mean"),
        pytest.param("sequence_mean", 1 / 4, 1 / 12, id="sequence-mean"),
        pytest.param("constant", 1 / 32, 1 / 32, id="constant"),
    ],
)
def test_weights_hold_the_counts_of_all_ranks(normalizer, weight_of_1, weight_of_3):
    of = prompt("p0", num_tokens=2)
    scored = [scored_sample(of, 0, num_tokens=3), scored_sample(of, 1, num_tokens=1)]
    batch = advantage_batch(scored, [1.0, -1.0])
    other = batch_of(groups_of([(2, [4, 2])]))
    config = algorithm(normalizer=normalizer)
    (packed,) = pack_ranks([batch, other], config)[0][0].micro_batches
    expected = [0, 0, weight_of_3, weight_of_3, weight_of_3, weight_of_1]
    assert packed.loss_weights.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("shared_prompt", [True, False], ids=["shared", "repeated"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@settings(deadline=None)
@given(
    lengths=LENGTHS,
    micro_batch_tokens=st.integers(min_value=1, max_value=60),
    num_ranks=st.integers(min_value=1, max_value=3),
    random=st.randoms(),
)
def test_loss_is_the_normalizers_definition_for_any_layout(
    normalizer, shared_prompt, lengths, micro_batch_tokens, num_ranks, random
):
    config = algorithm(
        normalizer=normalizer, shared_prompt=shared_prompt, micro_batch_tokens=micro_batch_tokens
    )
    groups = groups_of(lengths)
    expected = loss_by_definition(groups, normalizer, config)
    random.shuffle(groups)
    ranks = pack_ranks([batch_of(groups[rank::num_ranks]) for rank in range(num_ranks)], config)
    assert total_loss(ranks, config) == pytest.approx(expected, rel=1e-5, abs=FLOAT32_ATOL)


@given(
    lengths=LENGTHS,
    micro_batch_tokens=st.integers(min_value=1, max_value=60),
    num_updates=st.integers(min_value=1, max_value=3),
    shared_prompt=st.booleans(),
)
def test_every_sample_is_packed_once_within_the_budget(
    lengths, micro_batch_tokens, num_updates, shared_prompt
):
    config = algorithm(
        micro_batch_tokens=micro_batch_tokens,
        updates_per_step=num_updates,
        shared_prompt=shared_prompt,
    )
    groups = groups_of(lengths)
    updates = pack_alone(batch_of(groups), config)
    expected = [
        f"p{place}/{index}" for place, group in enumerate(groups) for index in range(len(group))
    ]
    assert sorted(name for update in updates for name in sample_ids(update)) == sorted(expected)
    for update in updates:
        for packed in update.micro_batches:
            assert len(packed.token_ids) <= micro_batch_tokens or len(packed.sample_ids) == 1


@given(lengths=LENGTHS, num_updates=st.integers(min_value=1, max_value=3))
def test_updates_share_whole_groups_evenly(lengths, num_updates):
    updates = pack_alone(batch_of(groups_of(lengths)), algorithm(updates_per_step=num_updates))
    prompts = [{name.split("/")[0] for name in sample_ids(update)} for update in updates]
    assert len(updates) == num_updates
    assert sum(len(each) for each in prompts) == len(lengths)
    assert max(map(len, prompts)) - min(map(len, prompts)) <= 1


def test_updates_are_balanced_by_tokens():
    # costs 8, 7, 2, 1 dealt back and forth: 8 + 1 and 7 + 2
    groups = groups_of([(1, [7]), (1, [1]), (1, [6])])
    groups += [[(scored_sample(prompt("short", num_tokens=0), 0, num_tokens=1), 1.0)]]
    first, second = pack_alone(batch_of(groups), algorithm(updates_per_step=2))
    assert sample_ids(first) == ["p0/0", "short/0"]
    assert sample_ids(second) == ["p2/0", "p1/0"]


def test_each_update_has_denominators_of_its_own():
    groups = groups_of([(1, [6, 5]), (1, [2])])
    first, second = pack_alone(batch_of(groups), algorithm(updates_per_step=2))
    assert (first.num_global_response_tokens, first.num_global_samples) == (11, 2)
    assert (second.num_global_response_tokens, second.num_global_samples) == (2, 1)
    assert second.micro_batches[0].loss_weights.tolist() == [0, 0.5, 0.5]


def test_rank_without_samples_takes_part_and_knows_the_global_counts():
    ranks = pack_ranks(
        [batch_of(groups_of([(1, [3, 4])])), batch_of([])], algorithm(updates_per_step=2)
    )
    assert [len(update.micro_batches) for update in ranks[1]] == [0, 0]
    assert [update.num_global_response_tokens for update in ranks[1]] == [7, 0]
    assert [update.num_global_samples for update in ranks[0]] == [2, 0]


def test_samples_of_similar_length_share_a_micro_batch():
    # totals 7, 6, 3, 2 under a budget of 13
    groups = groups_of([(1, [2, 6, 1, 5])])
    config = algorithm(micro_batch_tokens=13, shared_prompt=False)
    (update,) = pack_alone(batch_of(groups), config)
    assert [list(packed.sample_ids) for packed in update.micro_batches] == [
        ["p0/1", "p0/3"],
        ["p0/0", "p0/2"],
    ]


def test_sample_above_the_budget_is_alone():
    groups = groups_of([(1, [8, 1, 1])])
    config = algorithm(micro_batch_tokens=4, shared_prompt=False)
    (update,) = pack_alone(batch_of(groups), config)
    assert [list(packed.sample_ids) for packed in update.micro_batches] == [
        ["p0/0"],
        ["p0/1", "p0/2"],
    ]


def chose(scored, *, prompt_expert):
    """A choice of one expert in two layers: the prompt's, then 10 and up; 1 more in layer 1."""
    sample = scored.sample
    length = len(sample.token_ids)
    prompt_rows = np.full((len(sample.prompt.token_ids), 2, 1), prompt_expert, dtype=np.uint8)
    own = 10 * (1 + sample.sample_index) + np.arange(length - 1, dtype=np.uint8)
    response = np.repeat(own[:, None, None], 2, axis=1)
    for rows in (prompt_rows, response):
        rows[:, 1] += 1
    experts = ExpertChoices(prompt=prompt_rows, response=response)
    return replace(scored, sample=replace(sample, experts=experts))


def test_choices_of_experts_stand_where_their_tokens_stand():
    groups = groups_of([(2, [3, 1])])
    groups = [[(chose(scored, prompt_expert=7), value) for scored, value in groups[0]]]
    (update,) = pack_alone(batch_of(groups), algorithm(shared_prompt=True))
    (row,) = update.micro_batches
    # The prompt once; the last token of each response was never run.
    assert row.experts[:, :, 0].tolist() == [[7, 7, 10, 11, -1, -1], [8, 8, 11, 12, -1, -1]]
    assert update.num_global_tokens == (2 + 3) + (2 + 1)
    (update,) = pack_alone(batch_of(groups), algorithm(shared_prompt=False))
    (row,) = update.micro_batches
    assert row.experts[0, :, 0].tolist() == [7, 7, 10, 11, -1, 7, 7, -1]
    assert update.num_global_tokens == (2 + 3) + (2 + 1)


def test_choices_of_a_sample_by_itself():
    (group,) = groups_of([(2, [3])])
    sample = chose(group[0][0], prompt_expert=7).sample
    assert experts_of(sample)[:, :, 0].tolist() == [[7, 7, 10, 11, -1], [8, 8, 11, 12, -1]]
    assert experts_of(group[0][0].sample) is None


def test_samples_with_and_without_choices_do_not_mix():
    (group,) = groups_of([(2, [3, 2])])
    group = [(chose(group[0][0], prompt_expert=7), 1.0), group[1]]
    with pytest.raises(AssertionError, match="all samples bring"):
        pack_alone(batch_of([group]), algorithm())
