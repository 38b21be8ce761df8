"""Weights and optimizer of a learner in megatron-core's torch_dist format.

Every tensor is stored under its place in the whole model, so that any layout can load what
another saved.

Read through pickle are, by megatron-core and torch, two files that only :func:`write_learner`
writes: ``common.pt`` (AdamW's step; tensors and plain values only, which torch enforces) and
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
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.model.mcore import (
    CheckpointingException,
    StrictHandling,
    dist_checkpointing,
)


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
    take_loaded(learner.optimizer, state)


def _sharded_state(learner: Learner, *, is_loading: bool, with_optimizer: bool) -> dict[str, Any]:
    model = weights_state(learner.policy.chunks, learner.policy.groups)
    if not with_optimizer:
        return model
    metadata = sharding_metadata(learner.policy.groups)
    if is_loading:
        optimizer = state_to_load(learner.optimizer, model, metadata=metadata)
    else:
        optimizer = state_to_save(learner.optimizer, model, step=learner.version, metadata=metadata)
    return {**model, **optimizer}
