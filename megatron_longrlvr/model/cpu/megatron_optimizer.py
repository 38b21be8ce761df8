"""megatron-core's optimizers over torch's AdamW, which takes the place of Apex and TE.

Two subjects: type names ("torch.cuda.FloatTensor") that the optimizers compare with, and the
``step`` tensor that AdamW keeps per parameter and the fused optimizers do not, which
`DistributedOptimizer` loses on the way through a checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from megatron_longrlvr.model.cpu.patches import replace


def patch_megatron_optimizer() -> None:
    """Accept CPU tensors in the optimizers and make their checkpoints resume exactly."""
    _patch_type_names()
    _patch_resume()


def _patch_type_names() -> None:
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


def _patch_resume() -> None:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer as Distributed

    replace(
        Distributed,
        "_set_main_param_and_optimizer_states",
        _keep_step(Distributed._set_main_param_and_optimizer_states),
        reason="KeyError 'step' (fully_reshardable) or a stale one (dp_reshardable)",
    )
    replace(
        Distributed,
        "load_state_dict",
        _own_step_tensors(Distributed.load_state_dict),
        reason="all parameters share one step tensor, which then advances once per parameter",
    )
    replace(
        Distributed,
        "sharded_state_dict",
        _with_state(Distributed.sharded_state_dict),
        reason="loading into a fresh optimizer asserts that a step exists",
    )


def _keep_step(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def set_states(self: Any, model_param: Any, tensors: dict[str, Any]) -> Any:
        group, place = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][place]]
        if "step" in state:  # load_state_dict has set it from the saved parameter groups
            tensors = {**tensors, "step": state["step"]}
        return original(self, model_param, tensors)

    return set_states


def _own_step_tensors(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        # fp32 main parameters are views of leaves, and are copied into.
        with torch.no_grad():
            original(self, state_dict)
        for state in self.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()

    return load_state_dict


def _with_state(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def sharded_state_dict(
        self: Any, model_sharded_state_dict: Any, is_loading: bool = False, *args: Any, **kw: Any
    ) -> Any:
        if is_loading and not self.optimizer.state:
            with _zero_learning_rate(self.optimizer):
                self._init_optimizer_states_with_dummy_values()
        return original(self, model_sharded_state_dict, is_loading, *args, **kw)

    return sharded_state_dict


@contextlib.contextmanager
def _zero_learning_rate(optimizer: Any) -> Iterator[None]:
    # The dummy step has zero gradients, but weight decay would still shrink the weights.
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
