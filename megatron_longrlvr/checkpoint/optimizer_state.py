"""AdamW's state in megatron-core's torch_dist format, whatever optimizers share it out.

megatron-core has one optimizer for all parameters, and a second one for experts where
expert-parallel ranks share them. What is stored does not show this: tensors named after their
parameter, and one step for all of them. Parameter groups and their settings are always those of
the running learner.
"""

from __future__ import annotations

from typing import Any

import torch

from megatron_longrlvr.checkpoint.bucket_padding import bucket_padding_kept
from megatron_longrlvr.checkpoint.own_pieces import own_pieces
from megatron_longrlvr.model.mcore import (
    DistributedOptimizer,
    LocalNonpersistentObject,
    MegatronOptimizer,
    ShardedBase,
    dict_list_map_outplace,
    extract_sharded_base,
)

_PARTS, _STEP = "optimizers", "adam_step"


def state_to_save(
    optimizer: MegatronOptimizer, model: dict[str, Any], *, step: int, metadata: dict[str, Any]
) -> dict[str, Any]:
    """State to be saved beside the model's; shares memory with the optimizer's own.

    Args:
        optimizer: Of the learner.
        model: Sharded state of the weights.
        step: Optimizer steps taken, at least one.
        metadata: How megatron-core is to cut the state.
    """
    parts = {
        index: own_pieces(part, model)
        if isinstance(part, DistributedOptimizer)
        else part.sharded_state_dict(model, is_loading=False, metadata=metadata)
        for index, part in enumerate(optimizer.chained_optimizers)
    }
    # megatron-core wants what is no tensor to be the same on all ranks.
    tensors, _ = extract_sharded_base({_PARTS: parts})
    return {**tensors, _STEP: step}


def state_to_load(
    optimizer: MegatronOptimizer, model: dict[str, Any], *, metadata: dict[str, Any]
) -> dict[str, Any]:
    """State for megatron-core to load into; what is no tensor stays as it is. Collective."""
    with bucket_padding_kept(optimizer):
        parts = {
            index: part.sharded_state_dict(model, is_loading=True, metadata=metadata)
            for index, part in enumerate(optimizer.chained_optimizers)
        }
    return {_PARTS: dict_list_map_outplace(_keep_unless_stored, parts)}


def take_loaded(optimizer: MegatronOptimizer, state: dict[str, Any]) -> None:
    """Put what was loaded by way of :func:`state_to_load` into the optimizer."""
    for index, part in enumerate(optimizer.chained_optimizers):
        _set_step(part, state[_PARTS][index], step=state[_STEP])
        part.load_state_dict(state[_PARTS][index])


def _keep_unless_stored(value: object) -> object:
    if isinstance(value, ShardedBase | LocalNonpersistentObject):
        return value
    return LocalNonpersistentObject(value)


def _set_step(part: MegatronOptimizer, state: dict[str, Any], *, step: int) -> None:
    inner = state.get("optimizer", state)  # an optimizer of fp32 weights has torch's state on top
    if not isinstance(part, DistributedOptimizer) and isinstance(
        part.optimizer, torch.optim.AdamW | torch.optim.Adam
    ):
        inner["state"]["common_step"] = torch.tensor(float(step))
        return
    # Transformer Engine's AdamW counts in its groups; the distributed optimizer does on disk.
    for group in inner["param_groups"]:
        group["step"] = step
