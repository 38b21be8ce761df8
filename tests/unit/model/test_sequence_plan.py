"""Who attends to whom: the plan's blocks, spelled out as a mask, are the causal mask per sample.

Derivation for context parallelism: whatever rank holds a token, its allowed keys are those of the
same sample at or before its place, and every real token is held by exactly one rank.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.model.sequence_plan import padded_lengths, plan_sequences

CPU = torch.device("cpu")


def allowed_pairs(lengths, *, cp, multiple):
    """Pairs (query token, key token) of the micro-batch that the plans of all ranks allow."""
    plans = [
        plan_sequences(lengths, cp=cp, cp_rank=rank, multiple=multiple, device=CPU)
        for rank in range(cp)
    ]
    gathered = torch.cat([plan.token_index for plan in plans])
    pairs = set()
    for plan in plans:
        flat = []
        for block in plan.blocks:
            num_queries, num_keys = block.query_index.size(1), block.key_index.size(1)
            for queries, keys in zip(block.query_index, block.key_index, strict=True):
                for i in range(num_queries):
                    seen = keys[: num_keys - num_queries + i + 1]
                    flat.append((int(queries[i]), {int(gathered[key]) for key in seen}))
        for local, row in enumerate(plan.output_index.tolist()):
            query, keys = flat[row]
            assert query == local, "the output row of a token is not its own query"
            token = int(plan.token_index[local])
            pairs |= {(token, key) for key in keys if token >= 0}
    return pairs


def causal_pairs(lengths):
    pairs, start = set(), 0
    for length in lengths:
        pairs |= {(start + i, start + j) for i in range(length) for j in range(i + 1)}
        start += length
    return pairs


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 13), min_size=1, max_size=6),
    cp=st.sampled_from([1, 2, 4]),
    tp=st.sampled_from([1, 2, 3]),
)
def test_blocks_of_all_ranks_are_the_causal_mask_of_each_sample(lengths, cp, tp):
    multiple = 2 * cp * tp if cp > 1 else tp
    assert allowed_pairs(lengths, cp=cp, multiple=multiple) == causal_pairs(lengths)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), cp=st.sampled_from([1, 2, 4, 8])
)
def test_every_token_is_held_once_at_its_own_position(lengths, cp):
    held = []
    for rank in range(cp):
        plan = plan_sequences(lengths, cp=cp, cp_rank=rank, multiple=2 * cp, device=CPU)
        held += list(zip(plan.token_index.tolist(), plan.positions.tolist(), strict=True))
    positions = [place for length in lengths for place in range(length)]
    assert sorted(pair for pair in held if pair[0] >= 0) == list(enumerate(positions))


def test_two_ranks_hold_zigzag_chunks():
    # 8 tokens in 4 chunks of 2: rank 0 holds chunks 0 and 3, rank 1 chunks 1 and 2.
    plans = [plan_sequences([8], cp=2, cp_rank=r, multiple=4, device=CPU) for r in range(2)]
    assert plans[0].positions.tolist() == [0, 1, 6, 7]
    assert plans[1].positions.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("lengths", "cp", "multiple", "expected"),
    [
        pytest.param([5, 3], 1, 1, [5, 3], id="no-padding"),
        pytest.param([5, 4], 1, 2, [5, 4, 1], id="one-more-token-for-tp2"),
        # Each sample to a multiple of 4; 8 + 4 = 12 is a multiple of 12.
        pytest.param([5, 3], 2, 12, [8, 4], id="cp2"),
        pytest.param([5], 2, 12, [8, 4], id="cp2-filled-up"),
    ],
)
def test_padded_lengths(lengths, cp, multiple, expected):
    assert padded_lengths(lengths, cp=cp, multiple=multiple) == expected


def test_samples_of_like_length_share_a_kernel_call():
    plan = plan_sequences([10, 9, 8, 3], cp=1, cp_rank=0, multiple=1, device=CPU)
    assert [tuple(block.query_index.shape) for block in plan.blocks] == [(3, 10), (1, 3)]
