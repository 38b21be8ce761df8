"""Weights and optimizer of a learner in megatron-core's torch_dist format.

Every tensor is stored under its place in the whole model, so that any layout can load what
another saved.

Read through pickle are, by megatron-core and torch, two files that only :func:`write_learner`
writes: ``common.pt`` (parameter groups and AdamW's step; tensors and plain values only, which
torch enforces) and ``.metadata`` (the index of tensors). A checkpoint must therefore come from a
source one trusts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from megatron_longrlvr.checkpoint.bucket_padding import bucket_padding_kept
from megatron_longrlvr.checkpoint.weights import fill_chunks, sharding_metadata, weights_state
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.model.mcore import (
    CheckpointingException,
    MegatronOptimizer,
    StrictHandling,
    dist_checkpointing,
)

# What a parameter group takes from the recipe of the running process and not from the checkpoint.
_SETTINGS = ("betas", "eps", "weight_decay", "lr", "max_lr", "min_lr")


def write_learner(directory: Path, learner: Learner) -> None:
    """Write weights and optimizer into an empty directory. Collective.

    An optimizer that has not taken a step has no state, and none is written.

    Raises:
        CheckpointError: Some rank could not write.
    """
    try:
        dist_checkpointing.save(
            _sharded_state(learner, is_loading=False, with_optimizer=learner.version > 0),
            str(directory),
        )
    # RuntimeError: torch's writer of zip files tells a full disk in no other way.
    except (CheckpointingException, CheckpointException, OSError, RuntimeError) as error:
        free_gib = shutil.disk_usage(directory).free / 2**30
        raise CheckpointError(
            f"cannot write the learner to {directory} ({free_gib:.2f} GiB free there): {error}"
        ) from error


def read_learner(directory: Path, learner: Learner, *, with_optimizer: bool) -> None:
    """Replace weights and optimizer state by those in ``directory``. Collective.

    Learning rate, decay and the other settings of the optimizer stay as the learner has them.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; the learner may hold
            parts of both afterwards.
    """
    try:
        state = dist_checkpointing.load(
            _sharded_state(learner, is_loading=True, with_optimizer=with_optimizer),
            str(directory),
            strict=StrictHandling.RAISE_ALL,
        )
    except (CheckpointingException, CheckpointException, OSError) as error:
        raise CheckpointError(f"{directory} does not fit the learner: {error}") from error
    fill_chunks(learner.policy.chunks, state)
    if not with_optimizer:
        learner.optimizer.reload_model_params()  # its fp32 copy of the weights
        return
    settings = _settings(learner.optimizer)
    learner.optimizer.load_state_dict(state["optimizer"])
    for group, setting in zip(learner.optimizer.param_groups, settings, strict=True):
        group.update(setting)


def _sharded_state(learner: Learner, *, is_loading: bool, with_optimizer: bool) -> dict[str, Any]:
    model = weights_state(learner.policy.chunks, learner.policy.groups)
    if not with_optimizer:
        return model
    with bucket_padding_kept(learner.optimizer):
        optimizer = learner.optimizer.sharded_state_dict(
            model, is_loading=is_loading, metadata=sharding_metadata(learner.policy.groups)
        )
    # Ranks that gave their part to another: megatron-core compares what is left on all ranks.
    if optimizer.get("param_state", ...) is None:
        del optimizer["param_state"]
    return {**model, "optimizer": optimizer}


def _settings(optimizer: MegatronOptimizer) -> list[dict[str, Any]]:
    return [
        {key: group[key] for key in _SETTINGS if key in group} for group in optimizer.param_groups
    ]
