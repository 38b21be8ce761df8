"""Which token attends to which, for packed segments on one context-parallel rank.

A micro-batch is a row of segments. A segment starts a sample, or continues a segment that it
shares with others: the responses of a group all continue their prompt, which stands in the row
once. A token attends to the whole of what its segment continues, and to its own segment up to
itself; nobody attends elsewhere. Positions of a continuing segment go on from its prompt's end.

Attention is cut into blocks of two kinds, so that no mask is ever held:

    causal  a run of queries against the same run of keys, each seeing those up to itself
    full    a run of queries that all see the whole of a run of keys

Every token stands in one causal block; a response token also in a full block against its
prompt, which serves all responses of the group at once; and, under context parallelism, one
against what its segment holds before the token's own piece. ``block_attention.py`` merges what
a token found in its blocks. Blocks of like shape are batched, so the number of kernel calls does
not grow with the samples.

Context parallelism uses megatron-core's zigzag order, for each segment by itself: it is cut into
``2 * cp`` pieces and rank r holds pieces r and ``2 * cp - 1 - r``. So every rank holds the same
number of a prompt's and of each response's tokens, and has the same number of pairs to compute.

Shapes: T tokens of the micro-batch on all ranks (without padding), L tokens on this rank
(padding included), B blocks, Q queries and K keys per block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_longrlvr.model.token_runs import TokenRuns, token_runs
from megatron_longrlvr.parallel.layout import padded_lengths
from megatron_longrlvr.stages import Segment

# A block joins a batch of longer ones while it fills at least this share of the width; below
# it, a further kernel call is cheaper than the padding.
_MIN_FILL = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBatch:
    """Attention blocks of one padded shape."""

    queries: TokenRuns
    """[B, Q] of this rank's tokens."""

    keys: TokenRuns
    """[B, K] of the keys of all context-parallel ranks, rank after rank."""

    is_causal: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SequencePlan:
    """One context-parallel rank's view of a packed micro-batch."""

    token_index: Tensor
    """[L] int64: which of the micro-batch's tokens this rank holds; -1 is padding."""

    positions: Tensor
    """[L] int64 position within the sample, for rotary embedding; 0 at padding."""

    causal: Sequence[BlockBatch]
    """Every token of this rank, padding included, is a query of one of these."""

    output_index: Tensor | None
    """[L] int64 row of each token in the causal blocks' results, concatenated and flattened;
    None where that is their order."""

    full: Sequence[BlockBatch]
    """Within one of these no token is a query twice."""

    lengths: tuple[int, ...]
    """Tokens of each segment on all ranks, padding included; the last may be padding alone."""

    shares_prompts: bool
    """Whether a segment continues another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    queries: Tensor
    keys: Tensor


def plan_sequences(
    segments: Sequence[Segment], *, cp: int, cp_rank: int, multiple: int, device: torch.device
) -> SequencePlan:
    """Lay packed segments out for one context-parallel rank.

    Args:
        segments: In packing order, none empty; a segment that is continued starts a sample and
            comes before those that continue it.
        cp: Context-parallel degree.
        cp_rank: This rank's place in its context-parallel group.
        multiple: The padded total divides by this.
        device: Where the index tensors live.
    """
    padded = padded_lengths([segment.num_tokens for segment in segments], cp=cp, multiple=multiple)
    tokens_per_rank = sum(padded) // cp
    token_index: list[Tensor] = []
    positions: list[Tensor] = []
    causal: list[_Block] = []
    before: list[_Block] = []
    real_keys: list[Tensor] = []
    continuing: dict[int, list[Tensor]] = defaultdict(list)
    offset, local_start = 0, 0
    for i, length in enumerate(padded):
        segment = segments[i] if i < len(segments) else Segment(num_tokens=0)
        places = _held_places(length, cp=cp, rank=cp_rank)
        is_real = places < segment.num_tokens
        token_index.append(torch.where(is_real, places + offset, -1))
        positions.append(torch.where(is_real, places + _first_position(segments, segment), 0))
        keys = _gathered_rows(length, cp=cp, start=local_start, tokens_per_rank=tokens_per_rank)
        real_keys.append(keys[: segment.num_tokens])
        local = torch.arange(len(places)) + local_start
        for piece, first in _pieces(local, places, cp=cp):
            causal.append(_Block(queries=piece, keys=keys[first : first + len(piece)]))
            if 0 < first < segment.num_tokens:
                before.append(_Block(queries=piece, keys=keys[:first]))
        if segment.continues is not None:
            continuing[segment.continues].append(local[is_real])
        offset += segment.num_tokens
        local_start += len(places)
    prompts = [
        _Block(queries=torch.cat(runs), keys=real_keys[prompt])
        for prompt, runs in continuing.items()
    ]
    batches, output_index = _batch_causal(causal, num_tokens=tokens_per_rank, device=device)
    return SequencePlan(
        token_index=torch.cat(token_index).to(device),
        positions=torch.cat(positions).to(device),
        causal=batches,
        output_index=output_index,
        full=[*_batch_full(before, device=device), *_batch_full(prompts, device=device)],
        lengths=tuple(padded),
        shares_prompts=bool(prompts),
    )


def _first_position(segments: Sequence[Segment], segment: Segment) -> int:
    if segment.continues is None:
        return 0
    prompt = segments[segment.continues]
    assert prompt.continues is None, "a continued segment starts a sample"
    return prompt.num_tokens


def _held_places(length: int, *, cp: int, rank: int) -> Tensor:
    """Places within a segment that a rank holds, in its local order."""
    if cp == 1:
        return torch.arange(length)
    piece = torch.arange(length // (2 * cp))
    return torch.cat([piece + rank * len(piece), piece + (2 * cp - 1 - rank) * len(piece)])


def _pieces(local: Tensor, places: Tensor, *, cp: int) -> list[tuple[Tensor, int]]:
    """Runs of adjoining places that a rank holds of a segment, each with its first place."""
    if not len(local):
        return []
    size = len(local) // 2 if cp > 1 else len(local)
    return [
        (local[start : start + size], int(places[start])) for start in range(0, len(local), size)
    ]


def _gathered_rows(length: int, *, cp: int, start: int, tokens_per_rank: int) -> Tensor:
    """Row of each place of a segment in the keys gathered from all ranks."""
    rows = torch.empty(length, dtype=torch.int64)
    for rank in range(cp):
        places = _held_places(length, cp=cp, rank=rank)
        rows[places] = torch.arange(len(places)) + start + rank * tokens_per_rank
    return rows


def _batch_causal(
    blocks: Sequence[_Block], *, num_tokens: int, device: torch.device
) -> tuple[list[BlockBatch], Tensor | None]:
    """Batch square blocks of like size; causality hides the padding from real queries."""
    order = sorted(range(len(blocks)), key=lambda i: -len(blocks[i].queries))
    batches: list[BlockBatch] = []
    output_index = torch.empty(num_tokens, dtype=torch.int64)
    row = 0
    for group in _group_by_fill([blocks[i] for i in order]):
        batch = _batch(group, is_causal=True, device=device)
        width = batch.queries.width
        for place, block in enumerate(group):
            output_index[block.queries] = torch.arange(len(block.queries)) + row + place * width
        row += len(group) * width
        batches.append(batch)
    is_in_order = row == num_tokens and bool((output_index == torch.arange(num_tokens)).all())
    return batches, None if is_in_order else output_index.to(device)


def _batch_full(blocks: Sequence[_Block], *, device: torch.device) -> list[BlockBatch]:
    """Batch blocks of equally many keys and like numbers of queries.

    Blocks against a prompt are one per prompt, and those of one segment against its earlier
    places never have equally many keys, so either kind puts no token into two runs of a batch.
    """
    by_keys: dict[int, list[_Block]] = defaultdict(list)
    for block in blocks:
        if block.queries.numel():
            by_keys[len(block.keys)].append(block)
    return [
        _batch(group, is_causal=False, device=device)
        for alike in by_keys.values()
        for group in _group_by_fill(sorted(alike, key=lambda block: -len(block.queries)))
    ]


def _group_by_fill(longest_first: Sequence[_Block]) -> list[list[_Block]]:
    groups: list[list[_Block]] = []
    for block in longest_first:
        if groups and len(block.queries) >= _MIN_FILL * len(groups[-1][0].queries):
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def _batch(blocks: Sequence[_Block], *, is_causal: bool, device: torch.device) -> BlockBatch:
    return BlockBatch(
        queries=token_runs([block.queries for block in blocks], device=device),
        keys=token_runs([block.keys for block in blocks], device=device),
        is_causal=is_causal,
    )
