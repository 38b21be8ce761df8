"""FP8 without its hardware: what matrix products read is rounded to FP8, and multiplied as it is.

One scale per tensor from its own largest value (Transformer Engine's current scaling): inputs and
weights of every linear layer as e4m3, gradients of their results as e5m2. It says what to expect of
the real ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def emulate_fp8(model: torch.nn.Module) -> int:
    """Round what the linear layers of the transformer's layers read, from now on.

    Returns:
        How many there are.
    """
    linear = [
        module
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")
    ]
    for module in linear:
        with torch.no_grad():
            module.weight.copy_(rounded(module.weight, torch.float8_e4m3fn))
        module.register_forward_pre_hook(_round_input)
        module.register_forward_hook(_round_gradient)
    return len(linear)


def rounded(values: Tensor, kind: torch.dtype) -> Tensor:
    """The nearest values that FP8 has, scaled to reach the largest."""
    scale = _LARGEST[kind] / values.abs().amax().clamp(min=1e-12).float()
    return ((values.float() * scale).to(kind).float() / scale).to(values.dtype)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: Tensor, kind: torch.dtype) -> Tensor:
        return rounded(values, kind)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _RoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        return rounded(grads[0], torch.float8_e5m2)


def _round_input(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (_Rounded.apply(args[0], torch.float8_e4m3fn), *args[1:])


def _round_gradient(
    _module: torch.nn.Module, _args: tuple[Tensor, ...], results: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    return (_RoundedGradient.apply(results[0]), *results[1:])
