"""Checksums of weights that two holders of the same tensor can compare.

Exact and the same on every device: two tensors of the same numbers have the same checksum however
they are laid out in memory, and one changed number changes it.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from torch import Tensor

# Elements that share a set of weights; few enough that a block stays in a core's cache.
_BLOCK_NUMEL = 2**15
# Handled at a time; on an accelerator many small kernels would cost more than the memory.
_BLOCKS_AT_ONCE = {"cpu": 1, "cuda": 2**8}

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}

# Odd multipliers (Knuth's 2**32 over the golden ratio, and that of 64 bits) spread positions.
_SPREAD = 2_654_435_761
_BLOCK_SPREAD = 0x9E3779B97F4A7C15
_WORD = 2**64


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Sum of the bit patterns, each weighted by its position, modulo 2**64.

    Every weight is an odd number, that of the place in a block of elements times that of the block,
    so that one changed number always shows. Zeros count alike whatever their sign, and numbers too
    small to be normal count as zero: a matrix product, through which packed weights are read back,
    keeps neither apart.

    Args:
        tensor: Floating point, of any shape; read in order of its indices.
    """
    flat = tensor.detach().reshape(-1)
    weights = _weights(flat.device)
    at_once = _BLOCK_NUMEL * _BLOCKS_AT_ONCE[flat.device.type]
    total = 0
    for start in range(0, flat.numel(), at_once):
        products = _bits(flat[start : start + at_once]).long()
        whole = products.numel() // _BLOCK_NUMEL * _BLOCK_NUMEL
        sums = (products[:whole].view(-1, _BLOCK_NUMEL) * weights).sum(dim=1).tolist()
        if whole < products.numel():
            rest = products[whole:]
            sums.append(int((rest * weights[: len(rest)]).sum()))
        for block, block_sum in enumerate(sums, start // _BLOCK_NUMEL):
            total += block_sum * (block * _BLOCK_SPREAD | 1)
    return total % _WORD


@cache
def _weights(device: torch.device) -> Tensor:
    """[_BLOCK_NUMEL] int64, those of the places in a block."""
    return torch.arange(_BLOCK_NUMEL, device=device) * _SPREAD | 1


def _bits(values: Tensor) -> Tensor:
    """Bit patterns as whole numbers of the same size."""
    kind = _BITS[values.element_size()]
    bits = values.view(kind)
    smallest = torch.tensor(torch.finfo(values.dtype).tiny, dtype=values.dtype).view(kind).item()
    magnitude = bits & torch.iinfo(kind).max
    return torch.where(magnitude < smallest, 0, bits)


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
