"""``torch.cuda`` functions that megatron-core calls whatever the device.

``current_device`` carries most of the weight: megatron-core uses its result only as the
``device`` of a new tensor, so answering with the CPU puts those tensors where they belong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from megatron_longrlvr.model.cpu.patches import replace
from megatron_longrlvr.model.cpu.stand_ins import CpuEvent, CpuStream

_CPU = torch.device("cpu")
_STREAM = CpuStream()
_MEMORY_COUNTERS = (
    "memory_allocated",
    "max_memory_allocated",
    "memory_reserved",
    "max_memory_reserved",
)


def patch_cuda_api() -> None:
    """Answer device, stream, event, memory and profiler calls without a device."""
    _patch_device()
    _patch_streams()
    _patch_generator()
    for counter in _MEMORY_COUNTERS:
        replace(
            torch.cuda, counter, lambda _device=None: 0, reason="log lines ask for device memory"
        )
    for marker in ("range_push", "range_pop", "mark"):
        replace(
            torch.cuda.nvtx,
            marker,
            _ignoring(),
            reason="profiler ranges are opened unconditionally",
        )


def _patch_device() -> None:
    cuda = torch.cuda
    replace(cuda, "current_device", lambda: _CPU, reason="device of nearly every new tensor")
    replace(cuda, "set_device", _ignoring(), reason="called at start-up; one CPU device only")
    replace(cuda, "synchronize", _ignoring(), reason="CPU work is done when its call returns")
    replace(cuda, "empty_cache", _ignoring(), reason="the CPU allocator has no cache to give back")
    replace(
        cuda,
        "get_device_capability",
        lambda _device=None: (0, 0),
        reason="switches on GPU kernels from the capability; none apply",
    )


def _patch_streams() -> None:
    cuda = torch.cuda
    replace(cuda, "Stream", CpuStream, reason="communication streams are made unconditionally")
    replace(cuda, "Event", CpuEvent, reason="timers and offloading make events")
    for name in ("current_stream", "default_stream"):
        replace(cuda, name, lambda _device=None: _STREAM, reason="asked for to be waited on")
    replace(
        cuda,
        "stream",
        lambda _stream=None: contextlib.nullcontext(),
        reason="side streams run in line",
    )


def _patch_generator() -> None:
    # The CPU has one default generator, so it is also the one that stands for the device.
    cuda = torch.cuda
    reason = "the RNG tracker moves the device generator"
    replace(cuda, "get_rng_state", lambda _device=None: torch.get_rng_state(), reason=reason)
    replace(cuda, "set_rng_state", _set_rng_state, reason=reason)
    # Not torch.manual_seed: that calls torch.cuda.manual_seed_all, which is replaced here.
    for name in ("manual_seed", "manual_seed_all"):
        replace(cuda, name, _seed_default_generator, reason=reason)


def _seed_default_generator(seed: int) -> None:
    torch.default_generator.manual_seed(int(seed))


def _set_rng_state(state: Tensor, _device: object = None) -> None:
    torch.set_rng_state(state)


def _ignoring() -> Callable[..., None]:
    # A function of its own for each name: torch's compiler keeps a table of the functions of
    # torch.cuda and stops at one that stands under two names.
    def ignore(*_args: object, **_kwargs: object) -> None:
        return

    return ignore
