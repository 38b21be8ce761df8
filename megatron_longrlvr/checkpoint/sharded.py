"""Weights and optimizer of a policy or a critic in megatron-core's torch_dist format.

Every tensor is stored under its place in the whole model, so that any layout can load what
another saved.

Read through pickle are, by megatron-core and torch, two files that only :func:`write_trainee`
writes: ``common.pt`` (AdamW's step; tensors and plain values only, which torch enforces; from
megatron-core 0.19 on it lies among the tensors, as ``common_state``, read in the same way) and
``.metadata`` (the index of tensors). A checkpoint must therefore come from a source one trusts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from megatron_longrlvr.checkpoint.optimizer_state import (
    state_to_load,
    state_to_save,
    take_loaded,
)
from megatron_longrlvr.checkpoint.weights import fill_chunks, sharding_metadata, weights_state
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.mcore import (
    SAVE_OPTIONS,
    CheckpointingException,
    StrictHandling,
    dist_checkpointing,
)
from megatron_longrlvr.model.trainee import Trainee


def write_trainee(directory: Path, trainee: Trainee) -> None:
    """Write weights and optimizer into an empty directory. Collective.

    An optimizer that has not taken a step has no state, and none is written.

    Raises:
        CheckpointError: Some rank could not write.
    """
    try:
        dist_checkpointing.save(
            _sharded_state(trainee, is_loading=False, with_optimizer=trainee.version > 0),
            str(directory),
            **SAVE_OPTIONS,
        )
    # RuntimeError: torch's writer of zip files tells a full disk in no other way.
    except (CheckpointingException, CheckpointException, OSError, RuntimeError) as error:
        free_gib = shutil.disk_usage(directory).free / 2**30
        raise CheckpointError(
            f"cannot write the {trainee.role} to {directory} ({free_gib:.2f} GiB free there): "
            f"{error}"
        ) from error


def read_trainee(directory: Path, trainee: Trainee, *, with_optimizer: bool) -> None:
    """Replace weights and optimizer state by those in ``directory``. Collective.

    Learning rate, decay and the other settings of the optimizer stay as they are.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; the trainee may hold
            parts of both afterwards.
    """
    try:
        state = dist_checkpointing.load(
            _sharded_state(trainee, is_loading=True, with_optimizer=with_optimizer),
            str(directory),
            strict=StrictHandling.RAISE_ALL,
        )
    except (CheckpointingException, CheckpointException, OSError) as error:
        raise CheckpointError(f"{directory} does not fit the {trainee.role}: {error}") from error
    fill_chunks(trainee.network.chunks, state)
    if not with_optimizer:
        trainee.optimizer.reload_model_params()  # its fp32 copy of the weights
        return
    take_loaded(trainee.optimizer, state)


def _sharded_state(trainee: Trainee, *, is_loading: bool, with_optimizer: bool) -> dict[str, Any]:
    model = weights_state(trainee.network.chunks, trainee.network.groups)
    if not with_optimizer:
        return model
    metadata = sharding_metadata(trainee.network.groups)
    if is_loading:
        optimizer = state_to_load(trainee.optimizer, model, metadata=metadata)
    else:
        optimizer = state_to_save(trainee.optimizer, model, step=trainee.version, metadata=metadata)
    return {**model, **optimizer}
