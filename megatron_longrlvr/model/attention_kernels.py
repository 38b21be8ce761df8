"""Attention of one batch of blocks, with the log-sum-exp that merging blocks takes.

PyTorch's public attention does not return the log-sum-exp, so its kernels are called by name.
They never hold a matrix of scores, and take fewer key/value heads than query heads as they are. On
a GPU they take bf16 alone, and are the ones that ``model.attention`` has torch register.

Shapes: B blocks, Q queries, K keys, H query heads, M key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_longrlvr.model.plain_attention import plain_backward, plain_forward

_aten = torch.ops.aten


def block_forward(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention and log-sum-exp of its scores.

    Args:
        query: [B, Q, H, D].
        key: [B, K, M, D]; H is a multiple of M.
        value: [B, K, M, D].
        is_causal: Query i sees keys up to i (then Q = K); otherwise all keys.
        scale: Scores are multiplied by it.

    Returns:
        [B, Q, H, D] of the query's type, and [B, Q, H] float32 in nats.
    """
    if _is_plain(query):
        return plain_forward(query, key, value, is_causal=is_causal, scale=scale)
    heads_first = [each.transpose(1, 2) for each in (query, key, value)]
    if query.is_cuda:
        out, log_sum, *_ = _aten._scaled_dot_product_flash_attention(
            *heads_first, 0.0, is_causal, False, scale=scale
        )
    else:
        out, log_sum = _aten._scaled_dot_product_flash_attention_for_cpu(
            *heads_first, 0.0, is_causal, scale=scale
        )
    return out.transpose(1, 2), log_sum.transpose(1, 2)


def block_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    log_sum: Tensor,
    *,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values through this block.

    ``out`` [B, Q, H, D] and ``log_sum`` [B, Q, H] are what a query found in all of its blocks:
    with them the kernel's weights are the shares of the whole, and the blocks' gradients add up.
    """
    if _is_plain(query):
        return plain_backward(
            grad, query, key, value, out, log_sum, is_causal=is_causal, scale=scale
        )
    tensors = [each.transpose(1, 2) for each in (grad, query, key, value, out)]
    log_sum = log_sum.contiguous().transpose(1, 2)
    if query.is_cuda:
        no_seed = torch.zeros(2, dtype=torch.uint64, device=query.device)
        grads = _aten._scaled_dot_product_flash_attention_backward(
            *tensors,
            log_sum.contiguous(),
            None,
            None,
            query.size(1),
            key.size(1),
            0.0,
            is_causal,
            no_seed,
            no_seed[:0],
            scale=scale,
        )
    else:
        grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *tensors, log_sum, 0.0, is_causal, scale=scale
        )
    grad_query, grad_key, grad_value = (each.transpose(1, 2) for each in grads)
    return grad_query, grad_key, grad_value


def _is_plain(query: Tensor) -> bool:
    return query.is_cuda and query.dtype == torch.float32
