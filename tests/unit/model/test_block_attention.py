"""Attention by blocks equals attention with the mask of the same plan, forward and backward.

The expected side spells out the mask by definition (own segment up to itself, and the whole of
the segment it continues) and uses a plain softmax with autograd.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.model.block_attention import attend_blocks
from megatron_longrlvr.model.sequence_plan import plan_sequences
from tests.support.masked_attention import mask_by_definition, masked_attention, segments_of

# Sums of some dozen float32 terms of size 1 in another order.
FP32_ATOL = 5e-6
# bf16 keeps 8 bits; a merged response is rounded once per block.
BF16_ATOL = 4e-2

GROUPS = st.lists(
    st.tuples(st.integers(1, 30), st.lists(st.integers(1, 12), max_size=4)), min_size=1, max_size=3
)


def random_inputs(num_tokens, *, heads, kv_heads, dtype=torch.float32, size=8):
    generator = torch.Generator().manual_seed(num_tokens)
    shapes = [(num_tokens, heads, size)] + [(num_tokens, kv_heads, size)] * 2
    inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    # Large scores, so that a block's share of the whole is far from even.
    inputs[0] *= 3
    return [each.requires_grad_() for each in inputs], torch.randn(shapes[0], generator=generator)


def both_ways(segments, *, heads, kv_heads, dtype=torch.float32):
    """[(by blocks, by mask)] of the output and of the three gradients."""
    num_tokens = sum(segment.num_tokens for segment in segments)
    plan = plan_sequences(segments, cp=1, cp_rank=0, multiple=1, device=torch.device("cpu"))
    inputs, weights = random_inputs(num_tokens, heads=heads, kv_heads=kv_heads, dtype=dtype)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    out = attend_blocks(plan, *inputs)
    expected = masked_attention(*exact, mask_by_definition(segments))
    grads = torch.autograd.grad((out.float() * weights).sum(), inputs)
    expected_grads = torch.autograd.grad((expected * weights).sum(), exact)
    return list(zip((out, *grads), (expected, *expected_grads), strict=True))


@settings(max_examples=40, deadline=None)
@given(groups=GROUPS, heads=st.sampled_from([(2, 2), (4, 2), (4, 1)]))
def test_blocks_give_the_masked_softmax_and_its_gradients(groups, heads):
    for actual, expected in both_ways(segments_of(groups), heads=heads[0], kv_heads=heads[1]):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(actual.double(), expected, atol=FP32_ATOL * scale, rtol=0)


def test_bf16_stays_near_the_exact_result():
    segments = segments_of([(30, [12, 5, 1]), (7, [3])])
    for actual, expected in both_ways(segments, heads=4, kv_heads=2, dtype=torch.bfloat16):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(actual.double(), expected, atol=BF16_ATOL * scale, rtol=0)


@pytest.mark.parametrize("prompt", [40, 400])
def test_padding_of_a_batch_leaves_no_trace(prompt):
    """Queries so far apart that a wrong log-sum-exp would overflow."""
    # Prompts of equal length whose responses differ: the shorter run of queries is padded.
    segments = segments_of([(prompt, [9, 9]), (prompt, [9, 8])])
    plan = plan_sequences(segments, cp=1, cp_rank=0, multiple=1, device=torch.device("cpu"))
    assert plan.full[0].queries.is_padding is not None
    num_tokens = sum(segment.num_tokens for segment in segments)
    inputs, weights = random_inputs(num_tokens, heads=2, kv_heads=2)
    with torch.no_grad():
        inputs[0][0] *= 200
        inputs[1][1:] *= 20
    out = attend_blocks(plan, *inputs)
    for grad in torch.autograd.grad((out * weights).sum(), inputs):
        assert bool(grad.isfinite().all())
