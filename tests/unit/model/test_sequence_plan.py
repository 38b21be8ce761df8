"""Who attends to whom: the plan's blocks, spelled out as pairs, are the mask by definition.

Derivation, whatever rank holds a token: its keys are its own segment up to itself and, if its
segment continues another, the whole of that one. Every real token is held by exactly one rank.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.model.sequence_plan import plan_sequences
from megatron_longrlvr.parallel.layout import padded_lengths
from megatron_longrlvr.stages import Segment

CPU = torch.device("cpu")

SAMPLES = st.lists(st.integers(1, 13), min_size=1, max_size=6)
# A prompt's tokens, and those of each response that continues it; without any, a sample.
GROUPS = st.lists(
    st.tuples(st.integers(1, 13), st.lists(st.integers(1, 9), max_size=4)), min_size=1, max_size=4
)


def whole_samples(lengths):
    return [Segment(num_tokens=length) for length in lengths]


def shared_prompts(groups):
    segments = []
    for prompt, responses in groups:
        place = len(segments)
        segments.append(Segment(num_tokens=prompt))
        segments += [Segment(num_tokens=length, continues=place) for length in responses]
    return segments


def plans_of(segments, *, cp, multiple):
    return [
        plan_sequences(segments, cp=cp, cp_rank=rank, multiple=multiple, device=CPU)
        for rank in range(cp)
    ]


def block_pairs(block):
    """(local query, gathered key) of each pair that a batch of blocks computes, in order."""
    for run in range(block.queries.num_runs):
        queries, keys = block.queries.index[run].tolist(), block.keys.index[run].tolist()
        for i, query in enumerate(queries):
            is_padding = block.queries.is_padding
            if is_padding is not None and bool(is_padding[run, i]):
                continue
            for key in keys[: i + 1] if block.is_causal else keys:
                yield query, key


def allowed_pairs(segments, *, cp, multiple):
    """Pairs (query token, key token) that the plans of all ranks allow; none may come twice."""
    plans = plans_of(segments, cp=cp, multiple=multiple)
    gathered = torch.cat([plan.token_index for plan in plans]).tolist()
    pairs = []
    for plan in plans:
        tokens = plan.token_index.tolist()
        for block in (*plan.causal, *plan.full):
            pairs += [(tokens[query], gathered[key]) for query, key in block_pairs(block)]
    real = [pair for pair in pairs if pair[0] >= 0]
    assert len(set(real)) == len(real), "a pair is computed twice"
    return set(real)


def pairs_by_definition(segments):
    starts, total = [], 0
    for segment in segments:
        starts.append(total)
        total += segment.num_tokens
    pairs = set()
    for segment, start in zip(segments, starts, strict=True):
        for i in range(segment.num_tokens):
            pairs |= {(start + i, start + j) for j in range(i + 1)}
            if segment.continues is not None:
                first = starts[segment.continues]
                length = segments[segment.continues].num_tokens
                pairs |= {(start + i, first + j) for j in range(length)}
    return pairs


@settings(max_examples=60, deadline=None)
@given(lengths=SAMPLES, cp=st.sampled_from([1, 2, 4]), tp=st.sampled_from([1, 2, 3]))
def test_blocks_of_all_ranks_are_the_causal_mask_of_each_sample(lengths, cp, tp):
    segments = whole_samples(lengths)
    multiple = 2 * cp * tp if cp > 1 else tp
    assert allowed_pairs(segments, cp=cp, multiple=multiple) == pairs_by_definition(segments)


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, cp=st.sampled_from([1, 2, 4]), tp=st.sampled_from([1, 2]))
def test_blocks_of_all_ranks_are_the_mask_of_shared_prompts(groups, cp, tp):
    segments = shared_prompts(groups)
    multiple = 2 * cp * tp if cp > 1 else tp
    assert allowed_pairs(segments, cp=cp, multiple=multiple) == pairs_by_definition(segments)


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, cp=st.sampled_from([1, 2, 4]))
def test_no_batch_holds_a_query_twice_and_the_causal_ones_hold_all(groups, cp):
    for plan in plans_of(shared_prompts(groups), cp=cp, multiple=2 * cp):
        causal = []
        for block in (*plan.causal, *plan.full):
            tokens, _ = block.queries.real(torch.zeros(block.queries.index.shape))
            assert len(set(tokens.tolist())) == len(tokens)
            causal += tokens.tolist() if block.is_causal else []
        assert sorted(causal) == list(range(len(plan.token_index)))


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, cp=st.sampled_from([1, 2, 4]))
def test_output_index_finds_each_token_in_the_causal_results(groups, cp):
    for plan in plans_of(shared_prompts(groups), cp=cp, multiple=2 * cp):
        flat = torch.cat([block.queries.index.flatten() for block in plan.causal])
        if plan.output_index is not None:
            flat = flat[plan.output_index]
        assert flat.tolist() == list(range(len(plan.token_index)))


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, cp=st.sampled_from([1, 2, 4, 8]))
def test_every_token_is_held_once_and_responses_go_on_from_their_prompt(groups, cp):
    held = []
    for plan in plans_of(shared_prompts(groups), cp=cp, multiple=2 * cp):
        held += list(zip(plan.token_index.tolist(), plan.positions.tolist(), strict=True))
    positions = []
    for prompt, responses in groups:
        positions += range(prompt)
        for length in responses:
            positions += range(prompt, prompt + length)
    assert sorted(pair for pair in held if pair[0] >= 0) == list(enumerate(positions))


def test_two_ranks_hold_zigzag_pieces():
    # 8 tokens in 4 pieces of 2: rank 0 holds pieces 0 and 3, rank 1 pieces 1 and 2.
    plans = plans_of(whole_samples([8]), cp=2, multiple=4)
    assert plans[0].positions.tolist() == [0, 1, 6, 7]
    assert plans[1].positions.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("cp", [2, 4, 8])
def test_context_parallel_ranks_compute_equally_many_pairs(cp):
    # A scale model of a prompt of 64K tokens and 8 responses of 4K: every length divides.
    segments = shared_prompts([(1024, [64] * 8)])
    work = []
    for plan in plans_of(segments, cp=cp, multiple=2 * cp):
        causal = [b.queries.num_runs * b.queries.width * (b.queries.width + 1) for b in plan.causal]
        full = [b.queries.num_runs * b.queries.width * b.keys.width for b in plan.full]
        work.append(sum(causal) // 2 + sum(full))
    assert len(set(work)) == 1
    assert sum(work) == len(pairs_by_definition(segments))


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
    (plan,) = plans_of(whole_samples([10, 9, 8, 3]), cp=1, multiple=1)
    assert [tuple(block.queries.index.shape) for block in plan.causal] == [(3, 10), (1, 3)]


def test_responses_of_a_group_read_their_prompt_in_one_block():
    (plan,) = plans_of(shared_prompts([(20, [3, 5, 4])]), cp=1, multiple=1)
    (block,) = plan.full
    assert block.queries.span == (20, 32)
    assert block.keys.span == (0, 20)
