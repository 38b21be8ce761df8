"""Going through a tensor by blocks of rows, so that its size does not matter."""

from __future__ import annotations

from collections.abc import Iterator

import torch

# Small beside the memory of any machine, large beside the cost of a read or a write.
BLOCK_BYTES = 8 * 2**20


def row_blocks(shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """First row and end of each block, in order."""
    row_bytes = torch.Size(shape[1:]).numel() * dtype.itemsize
    step = max(BLOCK_BYTES // row_bytes, 1)
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])
