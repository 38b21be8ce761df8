"""Small values exchanged between the ranks of a group. Every rank of the group takes part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from megatron_longrlvr.parallel.device import device

_Value = TypeVar("_Value")


def sum_over(group: ProcessGroup, values: Sequence[float]) -> tuple[float, ...]:
    """Sum each value over the ranks of ``group``, in float64: counts are exact up to 2**53."""
    # One dtype whatever was given: a rank that passes 0 and one that passes 0.5 must still meet.
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device())
    dist.all_reduce(total, group=group)
    return tuple(total.tolist())


def all_ranks_agree(flag: bool, group: ProcessGroup) -> bool:
    """Whether ``flag`` is True on every rank of ``group``."""
    lowest = torch.tensor([int(flag)], dtype=torch.int64, device=device())
    dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=group)
    return bool(lowest.item())


def broadcast_object(value: _Value | None, group: ProcessGroup, *, source: int = 0) -> _Value:
    """Hand the picklable ``value`` of one rank to all; what the others pass is ignored.

    Args:
        value: Read on the source only.
        group: Who takes part.
        source: Rank within ``group``.
    """
    box: list[Any] = [value]
    dist.broadcast_object_list(box, group=group, group_src=source, device=device())
    received: _Value = box[0]
    return received


def gather_objects(value: _Value, group: ProcessGroup) -> list[_Value]:
    """Picklable values of all ranks of ``group``, in rank order, on every rank."""
    gathered: list[Any] = [None] * group.size()
    dist.all_gather_object(gathered, value, group=group)
    return gathered
