"""Attention in plain products is what the kernels compute, forward and backward.

The kernels are torch's for the CPU, called with the same blocks. Backward is tried as it is used:
with a result and a log-sum-exp that hold further keys, so that a block's shares do not sum to 1.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_longrlvr.model import plain_attention
from megatron_longrlvr.model.attention_kernels import block_backward, block_forward
from megatron_longrlvr.model.plain_attention import plain_backward, plain_forward

# Sums of some dozen float32 terms of size 1 in another order.
ATOL = 1e-5

BLOCKS = {
    "blocks": st.integers(1, 3),
    "queries": st.integers(1, 20),
    "keys": st.integers(1, 30),
    "heads": st.sampled_from([(2, 2), (4, 2), (6, 1)]),
    "is_causal": st.booleans(),
    "chunk": st.sampled_from([1, 7, 2**26]),
}


def draw(blocks, queries, keys, heads):
    generator = torch.Generator().manual_seed(blocks * 10_000 + queries * 100 + keys)

    def numbers(length, count, size=8):
        return torch.randn(blocks, length, count, size, generator=generator)

    query_heads, key_heads = heads
    query, grad, out = (numbers(queries, query_heads) for _ in range(3))
    key, value = (numbers(keys, key_heads) for _ in range(2))
    further = torch.rand(blocks, queries, query_heads, generator=generator)
    return grad, query * 3, key, value, out, further


@settings(max_examples=60, deadline=None)
@given(**BLOCKS)
def test_plain_products_give_what_the_kernels_give(blocks, queries, keys, heads, is_causal, chunk):
    keys = queries if is_causal else keys
    grad, query, key, value, out, further = draw(blocks, queries, keys, heads)
    how = {"is_causal": is_causal, "scale": 0.3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_attention, "_MOST_SCORES", chunk * blocks * heads[0] * keys)
        found, log_sum = plain_forward(query, key, value, **how)
        expected, expected_sum = block_forward(query, key, value, **how)
        torch.testing.assert_close(found, expected, atol=ATOL, rtol=0)
        torch.testing.assert_close(log_sum, expected_sum, atol=ATOL, rtol=ATOL)
        tensors = (grad, query, key, value, out, log_sum + further)
        pairs = zip(plain_backward(*tensors, **how), block_backward(*tensors, **how), strict=True)
    for gradient, wanted in pairs:
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(gradient, wanted, atol=ATOL * scale, rtol=0)
