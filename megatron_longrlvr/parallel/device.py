"""The device this process computes on.

Outside the model package this is the only file that speaks to ``torch.cuda``.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.planner.hardware import ACCELERATORS

_GIB = 1024**3
_RUSAGE_UNIT_BYTES = 1024  # ru_maxrss is in KiB on Linux


def has_cuda() -> bool:
    """Whether CUDA is present; decides between GPU and CPU everywhere."""
    return torch.cuda.is_available()


_planned: list[torch.device] = []


def device() -> torch.device:
    """This process's device: its own GPU, or the CPU."""
    if _planned:
        return _planned[-1]
    if has_cuda():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Have models and their buffers made as shapes without memory.

    megatron-core makes its tensors on ``torch.cuda.current_device()``, other modules on torch's
    default; both are the meta device meanwhile.
    """
    meta, original = torch.device("meta"), torch.cuda.current_device
    _planned.append(meta)
    torch.cuda.current_device = lambda: meta  # type: ignore[assignment,return-value]
    try:
        with meta:
            yield
    finally:
        torch.cuda.current_device = original
        _planned.pop()


def select_local_device() -> None:
    """Bind this process to the GPU of its ``LOCAL_RANK``; before any CUDA work.

    Raises:
        ConfigError: There is no such GPU.
    """
    if not has_cuda():
        return
    local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"LOCAL_RANK={local_rank} has no GPU: this process sees {count}; start one process per "
            "GPU of a node, and let each see all of them"
        )
    torch.cuda.set_device(local_rank)


def backend_name() -> str:
    """Name of torch.distributed's backend for this device."""
    return "nccl" if has_cuda() else "gloo"


def synchronize() -> None:
    """Wait for queued device work, so that a wall-clock time means something."""
    if has_cuda():
        torch.cuda.synchronize()


def give_back_memory() -> None:
    """Return device memory that torch keeps for later, so that others on the GPU can have it."""
    if has_cuda():
        torch.cuda.empty_cache()


# The table is of SXM modules; of these boards only the A100 has the same peak.
_SLOWER_BOARDS = frozenset({"pcie", "nvl"})


def peak_tflops() -> float | None:
    """Peak rate of this device in 1e12 FLOP/s (dense, bf16); None where it is not known."""
    if not has_cuda():
        return None
    words = torch.cuda.get_device_name().lower().replace("-", " ").split()
    if "a100" not in words and not _SLOWER_BOARDS.isdisjoint(words):
        return None
    return next((one.bf16_tflops for name, one in ACCELERATORS.items() if name in words), None)


def peak_memory_gib() -> float:
    """Most memory in use so far: allocated on the GPU, or resident in this process on the CPU."""
    if has_cuda():
        return torch.cuda.max_memory_allocated() / _GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT_BYTES / _GIB
