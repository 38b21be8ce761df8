"""Checksums of weights that two holders of the same tensor can compare.

Exact and the same on every device: two tensors of the same numbers have the same checksum however
they are laid out in memory, and one changed number changes it.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

# Elements handled at a time: int64 copies of them stay small beside any weight.
_CHUNK_NUMEL = 2**22

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}

# An odd multiplier (Knuth's 2**32 over the golden ratio) spreads positions over 31 bits.
_SPREAD = 2_654_435_761
_POSITION_MASK = 2**31 - 1


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Sum of the bit patterns, each weighted by its position, modulo 2**64.

    Zeros count alike whatever their sign, and numbers too small to be normal count as zero: a
    matrix product, through which packed weights are read back, keeps neither apart.

    Args:
        tensor: Floating point, of any shape; read in order of its indices.
    """
    flat = tensor.detach().reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    tiny = torch.finfo(flat.dtype).tiny
    for start in range(0, flat.numel(), _CHUNK_NUMEL):
        chunk = flat[start : start + _CHUNK_NUMEL]
        chunk = torch.where(chunk.abs() < tiny, torch.zeros_like(chunk), chunk)
        bits = chunk.view(_BITS[chunk.element_size()]).long()
        position = torch.arange(start, start + len(bits), device=flat.device)
        # 31 bits by 32 bits: the product fits, the sum wraps around.
        total += (bits * (position * _SPREAD & _POSITION_MASK | 1)).sum()
    return int(total)


def sample_columns(name: str, width: int, *, count: int | None, version: int) -> list[int]:
    """Columns of a matrix to compare, ascending; others at each version.

    Args:
        name: Of the tensor; every tensor has columns of its own.
        width: Columns that there are.
        count: How many to take; None for all of them.
        version: Policy version.
    """
    if count is None or count >= width:
        return list(range(width))
    return sorted(random.Random(f"{version}/{name}").sample(range(width), count))
