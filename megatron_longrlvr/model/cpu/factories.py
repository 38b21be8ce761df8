"""Literal ``device="cuda"`` and ``pin_memory=True`` in megatron-core's calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.jit._builtins import _find_builtin, _register_builtin
from torch.utils._device import _device_constructors

from megatron_longrlvr.model.cpu.patches import replace

_CPU = torch.device("cpu")
_FACTORIES = (
    "tensor",
    "as_tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "linspace",
    "eye",
    "rand",
    "randn",
    "randint",
    "randperm",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
)


def patch_factories() -> None:
    """Send tensors meant for a CUDA device to the CPU; leave every other call as it was."""
    # ``with torch.device(...)`` keeps a table of the factory functions, made at its first use; it
    # has to hold the real ones, which is what the wrappers call. With the wrappers in it,
    # transformers, which builds what it loads under the meta device, leaves rotary frequencies as
    # they were allocated: its logits change from run to run, and seem to be megatron-core's fault.
    _device_constructors()
    for name in _FACTORIES:
        replace(
            torch,
            name,
            _on_cpu(getattr(torch, name)),
            reason='called with device="cuda" or pin_memory=True',
        )
    tensor, module = torch.Tensor, torch.nn.Module
    replace(tensor, "to", _to_cpu(tensor.to), reason='called with "cuda"')
    replace(tensor, "cuda", _itself, reason="moves inputs to the device")
    replace(tensor, "pin_memory", _itself, reason="page-locked memory needs a CUDA driver")
    replace(tensor, "record_stream", _ignore, reason="nothing is freed behind a stream's back")
    replace(module, "cuda", _itself, reason="moves modules to the device")


def _is_cuda(device: object) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    # torch.jit.script knows torch's functions by identity; another one it would try to compile.
    _register_builtin(make, _find_builtin(factory))  # type: ignore[no-untyped-call] # untyped
    return make


def _to_cpu(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if args and _is_cuda(args[0]):
            args = (_CPU, *args[1:])
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        return original(self, *args, **kwargs)

    return to


def _itself(self: Any, *_args: object, **_kwargs: object) -> Any:
    return self


def _ignore(*_args: object, **_kwargs: object) -> None:
    return
