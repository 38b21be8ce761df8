"""megatron-core's optimizers on CPU tensors, whose type names are not those they compare with."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from megatron_longrlvr.model.cpu.patches import replace


def patch_megatron_optimizer() -> None:
    """Accept CPU tensors in the optimizers."""
    from megatron.core.optimizer import clip_grads, distrib_optimizer, optimizer

    reason = "compares Tensor.type() with torch.cuda names"
    for owner in (
        distrib_optimizer.DistributedOptimizer,
        optimizer.Float16OptimizerWithFloat16Params,
    ):
        replace(owner, "__init__", _with_cuda_type_names(owner.__init__), reason=reason)
    clip = _with_cuda_type_names(clip_grads.clip_grad_by_total_norm_fp32)
    for module in (clip_grads, optimizer):  # the second imported it by name
        replace(module, "clip_grad_by_total_norm_fp32", clip, reason=reason)


def _with_cuda_type_names(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _cuda_type_names():
            return function(*args, **kwargs)

    return call


@contextlib.contextmanager
def _cuda_type_names() -> Iterator[None]:
    original = torch.Tensor.type

    def type_or_cast(self: torch.Tensor, dtype: Any = None, **kwargs: Any) -> Any:
        if dtype is not None:
            return original(self, dtype, **kwargs)
        return original(self).replace("torch.", "torch.cuda.", 1)

    # mypy: the stub declares overloads that a plain function cannot match.
    torch.Tensor.type = type_or_cast  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.Tensor.type = original  # type: ignore[method-assign]
