"""Attention of one batch of blocks as plain matrix products.

For fp32 on a GPU, which the flash kernels do not take. Scores exist for a few queries at a time.

Shapes: B blocks, Q queries, K keys, C queries of a chunk, H query heads in M groups of G that share
a key/value head, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Scores that exist at the same time: 256 MiB in fp32.
_MOST_SCORES = 2**26


def plain_forward(
    query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """As ``block_forward``."""
    out = torch.empty_like(query)
    log_sum = query.new_empty(query.shape[:3], dtype=torch.float32)
    for rows in _row_ranges(query, key):
        scores = _scores(query, key, rows, is_causal=is_causal, scale=scale)
        total = scores.logsumexp(dim=-1)
        weights = (scores - total[..., None]).exp()
        out[:, rows] = torch.einsum("bmgck,bkmd->bcmgd", weights, value).flatten(2, 3)
        log_sum[:, rows] = total.permute(0, 3, 1, 2).flatten(2, 3)
    return out, log_sum


def plain_backward(
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
    """As ``block_backward``."""
    grad_query = torch.empty_like(query)
    grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
    groups = key.size(2)
    for rows in _row_ranges(query, key):
        grad_out = _by_group(grad[:, rows], groups)
        scores = _scores(query, key, rows, is_causal=is_causal, scale=scale)
        shares = (scores - _by_group(log_sum[:, rows], groups).permute(0, 2, 3, 1)[..., None]).exp()
        grad_value += torch.einsum("bmgck,bcmgd->bkmd", shares, grad_out)
        # d share / d score: each share pulls at the mean of what all of them are worth.
        mean = (grad_out * _by_group(out[:, rows], groups)).sum(-1).permute(0, 2, 3, 1)
        worth = torch.einsum("bcmgd,bkmd->bmgck", grad_out, value)
        slope = shares * (worth - mean[..., None]) * scale
        grad_query[:, rows] = torch.einsum("bmgck,bkmd->bcmgd", slope, key).flatten(2, 3)
        grad_key += torch.einsum("bmgck,bcmgd->bkmd", slope, _by_group(query[:, rows], groups))
    return grad_query, grad_key, grad_value


def _row_ranges(query: Tensor, key: Tensor) -> Iterator[slice]:
    blocks, num_queries, heads, _ = query.shape
    chunk = max(_MOST_SCORES // max(blocks * heads * key.size(1), 1), 1)
    return (slice(start, start + chunk) for start in range(0, num_queries, chunk))


def _scores(query: Tensor, key: Tensor, rows: slice, *, is_causal: bool, scale: float) -> Tensor:
    """[B, M, G, C, K]; -inf where a query does not see a key."""
    grouped = _by_group(query[:, rows], key.size(2))
    scores = torch.einsum("bcmgd,bkmd->bmgck", grouped, key) * scale
    if not is_causal:
        return scores
    places = torch.arange(key.size(1), device=key.device)
    is_hidden = places[None] > places[rows, None]
    return scores.masked_fill(is_hidden, -torch.inf)


def _by_group(values: Tensor, groups: int) -> Tensor:
    """[B, C, M, G, ...] of [B, C, H, ...]."""
    blocks, rows, heads, *rest = values.shape
    return values.reshape(blocks, rows, groups, heads // groups, *rest)
