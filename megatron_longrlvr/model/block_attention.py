"""Attention by a sequence plan: blocks computed apart, merged by their log-sum-exp.

A softmax over the union of key sets is the sum of the sets' own softmaxes, each weighted with
``exp(log_sum_set - log_sum_union)``. Backward gives every block the merged result and log-sum-exp,
which makes its weights shares of the whole. So a prompt's keys are read in place by all of its
responses, and no mask or matrix of scores exists.

Shapes: L tokens on this rank, A keys on all context-parallel ranks, H query heads and M key/value
heads on this rank, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.attention_kernels import block_backward, block_forward
from megatron_longrlvr.model.sequence_plan import BlockBatch, SequencePlan


def attend_blocks(plan: SequencePlan, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of [L, H, D] queries over the [A, M, D] keys and values the plan gives each.

    Returns:
        [L, H, D].
    """
    out: Tensor = _BlockAttention.apply(query, key, value, plan)  # type: ignore[no-untyped-call]
    return out


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: SequencePlan,
    ) -> Tensor:
        scale = 1.0 / math.sqrt(query.size(-1))
        found = [_forward(block, query, key, value, scale) for block in plan.causal]
        out = _in_token_order(plan, [out for out, _ in found])
        log_sum = _in_token_order(plan, [log_sum for _, log_sum in found])
        for block in plan.full:
            _merge(block, out, log_sum, *_forward(block, query, key, value, scale))
        ctx.save_for_backward(query, key, value, out, log_sum)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        query, key, value, out, log_sum = ctx.saved_tensors
        (grad,) = grads
        # fp32: a prompt's keys collect from the prompt itself and from all responses.
        totals = [torch.zeros_like(each, dtype=torch.float32) for each in (query, key, value)]
        for block in (*ctx.plan.causal, *ctx.plan.full):
            runs = (block.queries, block.keys, block.keys)
            found = block_backward(
                _take_grad(block, grad),
                block.queries.take(query),
                block.keys.take(key),
                block.keys.take(value),
                block.queries.take(out),
                _take_log_sum(block, log_sum),
                is_causal=block.is_causal,
                scale=ctx.scale,
            )
            for run, total, part in zip(runs, totals, found, strict=True):
                run.add_to(total, part)
        return *(total.to(query.dtype) for total in totals), None


def _forward(
    block: BlockBatch, query: Tensor, key: Tensor, value: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    return block_forward(
        block.queries.take(query),
        block.keys.take(key),
        block.keys.take(value),
        is_causal=block.is_causal,
        scale=scale,
    )


def _in_token_order(plan: SequencePlan, found: Sequence[Tensor]) -> Tensor:
    """[L, ...] from what the causal batches found, [B, Q, ...] each."""
    flat = torch.cat([each.flatten(0, 1) for each in found])
    return flat if plan.output_index is None else flat.index_select(0, plan.output_index)


def _merge(
    block: BlockBatch, out: Tensor, log_sum: Tensor, found: Tensor, found_sum: Tensor
) -> None:
    """Add to ``out`` and ``log_sum``, in place, what the block's queries found in it."""
    tokens, found = block.queries.real(found)
    _, found_sum = block.queries.real(found_sum)
    before = log_sum[tokens]
    total = torch.logaddexp(before, found_sum)
    kept = out[tokens] * (before - total).exp()[..., None]
    added = found * (found_sum - total).exp()[..., None]
    out[tokens] = (kept + added).to(out.dtype)
    log_sum[tokens] = total


def _take_grad(block: BlockBatch, grad: Tensor) -> Tensor:
    taken = block.queries.take(grad)
    if block.queries.is_padding is None:
        return taken
    return taken.masked_fill(block.queries.is_padding[..., None, None], 0.0)


def _take_log_sum(block: BlockBatch, log_sum: Tensor) -> Tensor:
    taken = block.queries.take(log_sum)
    if block.queries.is_padding is None:
        return taken
    # Padding is a copy of token 0, whose log-sum-exp does not bound scores against these keys:
    # infinity makes all of its weights 0 instead of an overflow.
    return taken.masked_fill(block.queries.is_padding[..., None], torch.inf)
