"""Which token attends to which, for packed samples on one context-parallel rank.

Samples are packed one after the other and nobody attends across samples. Attention is cut
into blocks: a run of queries against a run of keys, causal from the lower right corner (the
last query sees every key, the one before it all but the last, ...). A whole sample is such a
block; so is each of the two pieces of a sample that a context-parallel rank holds. Blocks of
about equal shape are batched, so the number of kernel calls does not grow with the samples.

Context parallelism uses megatron-core's zigzag order: a sample is cut into ``2 * cp`` chunks
and rank r holds chunks r and ``2 * cp - 1 - r``, which makes causal work even.

Shapes: T tokens of the micro-batch on all ranks (padding included), L tokens on this rank,
B blocks, Q queries and K keys per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A block joins a batch of longer ones while it fills at least this share of the width; below
# it, a further kernel call is cheaper than the padding.
_MIN_FILL = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBatch:
    """Attention blocks of one padded shape."""

    query_index: Tensor
    """[B, Q] int64 into this rank's tokens; a query beyond its block's end points to token 0 and
    its result is never read."""

    key_index: Tensor
    """[B, K] int64 into the keys of all context-parallel ranks, rank after rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePlan:
    """One context-parallel rank's view of a packed micro-batch."""

    token_index: Tensor
    """[L] int64: which of the micro-batch's tokens this rank holds; -1 is padding."""

    positions: Tensor
    """[L] int64 position within the sample, for rotary embedding; 0 at padding."""

    blocks: Sequence[BlockBatch]
    output_index: Tensor
    """[L] int64 row of each token in the blocks' results, concatenated and flattened."""


def padded_lengths(lengths: Sequence[int], *, cp: int, multiple: int) -> list[int]:
    """Lengths after padding: each to ``2 * cp`` parts, then one more to fill the micro-batch.

    Args:
        lengths: Tokens of each sample.
        cp: Context-parallel degree.
        multiple: The total must divide by this (``ParallelLayout.sequence_multiple``).
    """
    part = 2 * cp if cp > 1 else 1
    padded = [-(-length // part) * part for length in lengths]
    missing = -sum(padded) % multiple
    return padded + ([missing] if missing else [])


def plan_sequences(
    lengths: Sequence[int], *, cp: int, cp_rank: int, multiple: int, device: torch.device
) -> SequencePlan:
    """Lay packed samples out for one context-parallel rank.

    Args:
        lengths: Tokens of each sample, in packing order; all above 0.
        cp: Context-parallel degree.
        cp_rank: This rank's place in its context-parallel group.
        multiple: The padded total divides by this.
        device: Where the index tensors live.
    """
    padded = padded_lengths(lengths, cp=cp, multiple=multiple)
    offsets = _starts(lengths)
    local_starts = _starts([length // cp for length in padded])
    tokens_per_rank = sum(padded) // cp

    token_index: list[Tensor] = []
    positions: list[Tensor] = []
    blocks: list[tuple[Tensor, Tensor]] = []
    for i, length in enumerate(padded):
        places = _held_places(length, cp=cp, rank=cp_rank)
        real = lengths[i] if i < len(lengths) else 0
        start = offsets[i] if i < len(lengths) else 0
        token_index.append(torch.where(places < real, places + start, -1))
        positions.append(torch.where(places < real, places, 0))
        keys = _gathered_rows(length, cp=cp, start=local_starts[i], tokens_per_rank=tokens_per_rank)
        local = torch.arange(len(places)) + local_starts[i]
        piece = len(places) // 2 if cp > 1 else len(places)
        for first in range(0, len(places), piece):
            queries = local[first : first + piece]
            last_place = int(places[first + piece - 1])
            blocks.append((queries, keys[: last_place + 1]))
    batches, output_index = _batch_blocks(blocks, num_tokens=tokens_per_rank, device=device)
    return SequencePlan(
        token_index=torch.cat(token_index).to(device),
        positions=torch.cat(positions).to(device),
        blocks=batches,
        output_index=output_index,
    )


def _starts(lengths: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


def _held_places(length: int, *, cp: int, rank: int) -> Tensor:
    """Places within a sample that a rank holds, in its local order."""
    if cp == 1:
        return torch.arange(length)
    chunk = torch.arange(length // (2 * cp))
    return torch.cat([chunk + rank * len(chunk), chunk + (2 * cp - 1 - rank) * len(chunk)])


def _gathered_rows(length: int, *, cp: int, start: int, tokens_per_rank: int) -> Tensor:
    """Row of each place of a sample in the keys gathered from all ranks."""
    rows = torch.empty(length, dtype=torch.int64)
    for rank in range(cp):
        places = _held_places(length, cp=cp, rank=rank)
        rows[places] = torch.arange(len(places)) + start + rank * tokens_per_rank
    return rows


def _batch_blocks(
    blocks: Sequence[tuple[Tensor, Tensor]], *, num_tokens: int, device: torch.device
) -> tuple[list[BlockBatch], Tensor]:
    """Batch blocks of like shape; causality hides the padding of square ones."""
    order = sorted(range(len(blocks)), key=lambda i: [-len(index) for index in blocks[i]])
    groups: list[list[int]] = []
    for i in order:
        if groups and _fits(blocks[i], blocks[groups[-1][0]]):
            groups[-1].append(i)
        else:
            groups.append([i])
    batches: list[BlockBatch] = []
    output_index = torch.empty(num_tokens, dtype=torch.int64)
    row = 0
    for group in groups:
        width, depth = (len(index) for index in blocks[group[0]])
        query_index = torch.zeros(len(group), width, dtype=torch.int64)
        key_index = torch.zeros(len(group), depth, dtype=torch.int64)
        for place, i in enumerate(group):
            queries, keys = blocks[i]
            query_index[place, : len(queries)] = queries
            key_index[place, : len(keys)] = keys
            output_index[queries] = torch.arange(len(queries)) + row + place * width
        row += len(group) * width
        batches.append(
            BlockBatch(query_index=query_index.to(device), key_index=key_index.to(device))
        )
    return batches, output_index.to(device)


def _fits(block: tuple[Tensor, Tensor], widest: tuple[Tensor, Tensor]) -> bool:
    shape, limit = [len(index) for index in block], [len(index) for index in widest]
    if shape == limit:
        return True
    is_square = shape[0] == shape[1] and limit[0] == limit[1]
    return is_square and shape[0] >= _MIN_FILL * limit[0]
