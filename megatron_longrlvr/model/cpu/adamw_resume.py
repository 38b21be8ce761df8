"""The ``step`` that torch's AdamW keeps per parameter, through megatron-core's checkpoints.

`DistributedOptimizer` was written for fused optimizers, which have one step for all parameters, and
loses AdamW's unnoticed. This is the one patch here that is made on GPU too. The fused optimizers
are left as they are.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from megatron_longrlvr.model.cpu.patches import replace

_MARK = "_keeps_adamw_step"


def mend_adamw_resume() -> None:
    """Make checkpoints of torch's AdamW under `DistributedOptimizer` resume exactly; once."""
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer as Distributed

    if hasattr(Distributed, _MARK):
        return
    setattr(Distributed, _MARK, True)
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
        is_torch = isinstance(self.optimizer, torch.optim.AdamW)
        if is_loading and is_torch and not self.optimizer.state:
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
