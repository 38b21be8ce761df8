"""Which bytes go from which rank to which when new weights are published.

A plan is a list of copies that can be printed, counted and tested without processes. A rank of
the engine receives whole Hugging Face tensors, put together from the parts that the ranks of its
own replica hold; what a rank holds itself it copies without a link.

Copies take the way that ``model/hf_gather.py`` sends parts: among expert-parallel ranks, then along
the pipeline, then over the tensor-parallel ranks. A part of another stage therefore reaches each
tensor-parallel rank's own part of the model once, over whatever joins the stages, and is passed on
from there.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.parallel.layout import ParallelLayout

_GIGA = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTensor:
    """One Hugging Face tensor and how the trainer holds it."""

    hf_name: str
    shape: tuple[int, ...]
    split_dim: int | None
    """Dim that tensor-parallel ranks share; None where each of them holds all of it."""

    part_size: int
    """Size along ``split_dim`` of a rank's part, padding included; 0 where nothing is split."""

    stage: int
    """Pipeline rank that holds it."""

    expert_rank: int | None
    """Expert-parallel rank that holds it; None where all of them do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One contiguous range of one tensor on its way from one rank to another."""

    source_rank: int
    target_rank: int
    hf_name: str
    dim: int | None
    """Dim that ``start`` and ``stop`` count along; None for the whole tensor."""

    start: int
    stop: int
    num_bytes: int

    def __str__(self) -> str:
        part = "" if self.dim is None else f"[{':, ' * self.dim}{self.start}:{self.stop}]"
        return (
            f"rank {self.source_rank} -> rank {self.target_rank}  {self.hf_name}{part}  "
            f"{self.num_bytes} bytes"
        )


def plan_copies(
    tensors: Sequence[SourceTensor],
    layout: ParallelLayout,
    *,
    element_bytes: int,
    targets: Sequence[int] | None = None,
) -> list[Copy]:
    """List the copies that give every rank every tensor, by target and in order of ``tensors``.

    Args:
        tensors: What is moved.
        layout: Of the trainer.
        element_bytes: Of a weight.
        targets: Ranks to list for; all of them if None.
    """
    return [
        copy
        for target in (range(layout.world_size) if targets is None else targets)
        for tensor in tensors
        for copy in _copies_of(tensor, layout, target, element_bytes)
    ]


def bytes_by_link(copies: Sequence[Copy]) -> Mapping[tuple[int, int], int]:
    """Bytes from each rank to each other one; what stays on a rank is under ``(rank, rank)``."""
    links: Counter[tuple[int, int]] = Counter()
    for copy in copies:
        links[copy.source_rank, copy.target_rank] += copy.num_bytes
    return links


def expected_seconds(
    copies: Sequence[Copy], *, link_gb_per_s: float, copy_gb_per_s: float
) -> float:
    """Time of the busiest rank, if what it receives and what it copies follow one another.

    Args:
        copies: The plan.
        link_gb_per_s: Rate at which a rank receives from the others (1e9 bytes per second).
        copy_gb_per_s: Rate of a copy within a rank's memory.
    """
    seconds: defaultdict[int, float] = defaultdict(float)
    for copy in copies:
        rate = copy_gb_per_s if copy.source_rank == copy.target_rank else link_gb_per_s
        seconds[copy.target_rank] += copy.num_bytes / (rate * _GIGA)
    return max(seconds.values(), default=0.0)


def format_plan(copies: Sequence[Copy]) -> str:
    """The plan as text: a line per copy, then a line per link."""
    lines = [str(copy) for copy in copies]
    for (source, target), num_bytes in sorted(bytes_by_link(copies).items()):
        lines.append(f"total rank {source} -> rank {target}: {num_bytes / _GIGA:.6f} GB")
    return "\n".join(lines)


def _copies_of(
    tensor: SourceTensor, layout: ParallelLayout, target: int, element_bytes: int
) -> list[Copy]:
    split: int | None
    dim, own = tensor.split_dim, layout.coordinates(target)
    if dim is None or layout.tp == 1:
        split, parts = None, [(own.tp, 0, tensor.shape[0])]
    else:
        size = tensor.shape[dim]
        bounds = [min(rank * tensor.part_size, size) for rank in range(layout.tp + 1)]
        split, parts = dim, list(zip(range(layout.tp), bounds, bounds[1:], strict=False))
    other_numel = math.prod(tensor.shape) // tensor.shape[split or 0]
    return [
        Copy(
            source_rank=_sender(tensor, layout, target, tp_rank),
            target_rank=target,
            hf_name=tensor.hf_name,
            dim=split,
            start=start,
            stop=stop,
            num_bytes=(stop - start) * other_numel * element_bytes,
        )
        for tp_rank, start, stop in parts
        if stop > start
    ]


def _sender(tensor: SourceTensor, layout: ParallelLayout, target: int, tp_rank: int) -> int:
    """The rank that a part comes from on the last leg of its way; the target if it holds it."""
    own = layout.coordinates(target)
    if tp_rank != own.tp:
        wanted = (tp_rank, own.pp, own.ep)
    elif tensor.stage != own.pp:
        wanted = (tp_rank, tensor.stage, own.ep)
    else:
        wanted = (tp_rank, own.pp, own.ep if tensor.expert_rank is None else tensor.expert_rank)
    if wanted == (own.tp, own.pp, own.ep):
        return target
    for rank in range(layout.world_size):
        place = layout.coordinates(rank)
        same_rows = (place.cp, place.dp) == (own.cp, own.dp)
        # Experts cross the ranks that have other rows of the batch.
        is_peer = same_rows if wanted[2] == own.ep else place.expert_dp == own.expert_dp
        if (place.tp, place.pp, place.ep) == wanted and is_peer:
            return rank
    raise AssertionError(f"no rank sends part {tp_rank} of {tensor.hf_name}")
