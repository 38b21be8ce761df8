"""Most memory that tensors held while code ran: the allocator's count on GPU, ours on CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_longrlvr.parallel.device import has_cuda
from tests.support.live_tensors import LiveTensors


@dataclass
class Peak:
    """Filled in when the block is left."""

    num_bytes: int = 0
    """Beyond what was there when it was entered."""


@contextmanager
def peak_memory(held: Iterable[Tensor] = ()) -> Iterator[Peak]:
    """Watch a block. On GPU the scratch memory of kernels counts as far as torch allocates it.

    Args:
        held: Tensors that are there before, which a view would bring in on CPU.
    """
    peak = Peak()
    if not has_cuda():
        known = {tensor.untyped_storage().data_ptr() for tensor in held}
        with LiveTensors(lambda each: each.untyped_storage().data_ptr() not in known) as live:
            yield peak
        peak.num_bytes = live.peak_bytes
        return
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield peak
    torch.cuda.synchronize()
    peak.num_bytes = torch.cuda.max_memory_allocated() - before
