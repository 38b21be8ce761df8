"""Memory for one block of values, used again for the next."""

from __future__ import annotations

import torch
from torch import Tensor


class ReusedMemory:
    """One allocation, as large as the largest block that was asked for.

    Blocks that take new memory each pay for every page of it, and leave holes behind that the next
    does not fit: the process grows with the number of layers.
    """

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Contiguous values of any content, which the next call overwrites."""
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        if nbytes > self._bytes.nbytes:
            self._bytes = torch.empty(0, dtype=torch.uint8)  # gives back before more is taken
            self._bytes = torch.empty(nbytes, dtype=torch.uint8)
        return self._bytes[:nbytes].view(dtype).view(shape)
