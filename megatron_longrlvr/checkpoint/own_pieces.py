"""A rank's share of the distributed optimizer's state, as pieces of whole tensors. No copies.

The distributed optimizer gives each data-parallel rank a stretch of the flattened parameters.
megatron-core, to save it for any layout, gathers all of it on one rank and lays it out anew, which
takes as long as several steps and holds training up. A stretch of a flattened tensor is also a few
boxes of the tensor itself: the end of a row, whole rows, the beginning of a row. Each rank stores
its own boxes, under the names that megatron-core reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.mcore import (
    DistributedOptimizer,
    ShardedTensor,
    ShardedTensorFactory,
    extract_sharded_tensors_and_factories,
    nested_values,
)

_STEP = "step"  # stored once for all parameters


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor, row-major contiguous within it."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """Boxes of a tensor that hold the elements [start, stop) of its flattened form, in order.

    Args:
        shape: Of the tensor, at least one dimension.
        start: At most ``stop``.
        stop: At most the number of elements.
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield Box((start,), (stop - start,))
        return
    inner = math.prod(shape[1:])
    first, last = -(-start // inner), stop // inner  # whole rows
    if first > last:  # within one row
        yield from _in_row(shape, last, start - last * inner, stop - last * inner)
        return
    if start < first * inner:
        yield from _in_row(shape, first - 1, start - (first - 1) * inner, inner)
    if first < last:
        yield Box((first, *(0 for _ in shape[1:])), (last - first, *shape[1:]))
    if last * inner < stop:
        yield from _in_row(shape, last, 0, stop - last * inner)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[Box]:
    for box in boxes(shape[1:], start, stop):
        yield Box((row, *box.offset), (1, *box.shape))


def own_pieces(optimizer: DistributedOptimizer, model: dict[str, Any]) -> list[ShardedTensor]:
    """Main parameters and moments that this rank holds, ready to be saved.

    Args:
        optimizer: Has taken a step.
        model: Sharded state of the weights.
    """
    named, _ = extract_sharded_tensors_and_factories(model)
    place_of = {sharded.data: sharded for sharded in nested_values(named)}
    pieces: list[ShardedTensor] = []
    for param, start in _stretches(optimizer):
        sharded = place_of[param]
        for name, values in optimizer._get_main_param_and_optimizer_states(param).items():
            if name != _STEP:
                targets = _renamed(sharded, f"optimizer.state.{name}.{sharded.key}", optimizer)
                pieces += _pieces(targets, values.detach().float().view(-1), start)
    return pieces


def _stretches(optimizer: DistributedOptimizer) -> Iterator[tuple[Tensor, int]]:
    """Parameters of which this rank holds a stretch, and where that begins."""
    for by_dtype in optimizer.gbuf_ranges:
        for buckets in by_dtype.values():
            for bucket in buckets:
                for param, ranges in bucket["param_map"].items():
                    yield param, ranges["param"].start


def _renamed(
    sharded: ShardedTensor | ShardedTensorFactory, key: str, optimizer: DistributedOptimizer
) -> list[ShardedTensor]:
    """The whole fp32 tensors that a parameter's state is stored as on this rank, without values."""
    # Of the data-parallel ranks each has stretches of its own: none of them is a copy.
    replica = (*sharded.replica_id[:2], optimizer.distributed_optimizer_instance_id)
    empty = torch.empty(sharded.data.shape, dtype=torch.float32, device="meta")
    if isinstance(sharded, ShardedTensorFactory):
        built = replace(sharded, key=key, data=empty, replica_id=replica).build()
        return list(nested_values(built))
    return [replace(sharded, key=key, data=empty, dtype=torch.float32, replica_id=replica)]


def _pieces(
    targets: Sequence[ShardedTensor], held: Tensor, held_start: int
) -> Iterator[ShardedTensor]:
    """Pieces of stored tensors from a stretch of the parameter that they are parts of.

    Args:
        targets: Views of one tensor of the parameter's shape, each contiguous in it.
        held: [N] the stretch.
        held_start: Where it begins in the flattened parameter.
    """
    for target in targets:
        assert target.data.is_contiguous(), f"{target.key} is not stored row by row"
        begin, shape = target.data.storage_offset(), target.local_shape
        start = max(held_start, begin)
        stop = min(held_start + len(held), begin + target.data.numel())
        taken = start
        for box in boxes(shape, start - begin, stop - begin):
            size = math.prod(box.shape)
            values = held[taken - held_start : taken - held_start + size]
            yield _piece(target, box, values)
            taken += size


def _piece(target: ShardedTensor, box: Box, values: Tensor) -> ShardedTensor:
    num_lead = target.prepend_axis_num
    shape = (*(1 for _ in range(num_lead)), *box.shape)
    within = (*(0 for _ in range(num_lead)), *box.offset)
    return replace(
        target,
        data=values.view(shape),
        local_shape=shape,
        global_offset=tuple(map(sum, zip(target.global_offset, within, strict=True))),
        axis_fragmentations=None,  # pieces form no grid
        prepend_axis_num=0,
    )
