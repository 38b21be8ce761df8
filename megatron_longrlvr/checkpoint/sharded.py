"""Weights and optimizer of a policy or a critic in megatron-core's torch_dist format.

Every tensor is stored under its place in the whole model, so that any layout can load what
another saved.

Read through pickle are, by megatron-core and torch, two files, after :func:`check_pickles` has
looked at them.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from megatron_longrlvr.checkpoint.background import BackgroundWrite
from megatron_longrlvr.checkpoint.optimizer_state import (
    state_to_load,
    state_to_save,
    take_loaded,
)
from megatron_longrlvr.checkpoint.results_queue import keep_results_with_rank
from megatron_longrlvr.checkpoint.weights import (
    check_pickles,
    fill_chunks,
    sharding_metadata,
    weights_state,
)
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.mcore import (
    SAVE_OPTIONS,
    CheckpointingException,
    ShardedTensor,
    StrictHandling,
    apply_factories,
    dist_checkpointing,
    is_main_replica,
    nested_values,
)
from megatron_longrlvr.model.trainee import Trainee
from megatron_longrlvr.parallel.collectives import broadcast_object, sum_over
from megatron_longrlvr.parallel.groups import ProcessGroups


class TraineeWrite:
    """Weights and optimizer on their way to an empty directory. Collective.

    An optimizer that has not taken a step has no state, and none is written. The trainee may change
    as soon as this is made.
    """

    def __init__(
        self,
        directory: Path,
        trainee: Trainee,
        *,
        hashes: Path,
        after: TraineeWrite | None = None,
    ) -> None:
        """Start writing.

        Args:
            directory: Empty.
            trainee: Between two steps.
            hashes: File for the hashes of what this rank writes.
            after: Another one's write that is finished before this one.

        Raises:
            CheckpointError: The disk has too little space, or some rank could not plan its share.
        """
        state = _sharded_state(trainee, is_loading=False, with_optimizer=trainee.version > 0)
        apply_factories(state)
        for sharded in nested_values(state):
            if isinstance(sharded, ShardedTensor):
                sharded.data = alone(sharded.data)
        _check_space(directory, state, trainee.network.groups)
        self._directory, self._role = directory, trainee.role
        keep_results_with_rank()
        with _reported(directory, trainee.role):
            request = dist_checkpointing.save(
                state, str(directory), async_sharded_save=True, **SAVE_OPTIONS
            )
            earlier = None if after is None else after._write
            self._write: BackgroundWrite = BackgroundWrite(request, hashes, after=earlier)

    @property
    def is_written(self) -> bool:
        """Whether this rank's files are written."""
        return self._write.is_written

    def wait(self) -> None:
        """Return when this rank's files are written.

        Raises:
            CheckpointError: They never will be.
        """
        self._write.wait()

    def finish(self) -> None:
        """Complete the directory. Collective; every rank has waited.

        Raises:
            CheckpointError: Some rank could not write.
        """
        with _reported(self._directory, self._role):
            self._write.finish()


def alone(values: Tensor) -> Tensor:
    """The same values in the same memory, as a storage of their own.

    megatron-core copies a CPU tensor that is a part of a larger storage before it is written, which
    the fork of the rank makes superfluous.
    """
    values = values.detach()
    is_part = 0 < values.nbytes < values.untyped_storage().nbytes()
    if not is_part or values.device.type != "cpu" or not values.is_contiguous():
        return values
    # Not by way of numpy: torch never resizes again what an array looks at, and a critic in host
    # memory is emptied in place.
    memory = (ctypes.c_byte * values.nbytes).from_address(values.data_ptr())
    memory.owner = values  # type: ignore[attr-defined] # lives as long as what is made of it
    return torch.frombuffer(memory, dtype=values.dtype).view(values.shape)


@contextmanager
def _reported(directory: Path, role: str) -> Iterator[None]:
    try:
        yield
    # RuntimeError: torch's writer of zip files tells a full disk in no other way.
    except (CheckpointingException, CheckpointException, OSError, RuntimeError) as error:
        free_gib = shutil.disk_usage(directory).free / 2**30
        raise CheckpointError(
            f"cannot write the {role} to {directory} ({free_gib:.2f} GiB free there): {error}"
        ) from error


def _check_space(directory: Path, state: dict[str, Any], groups: ProcessGroups) -> None:
    """Refuse a save that the disk has no room for, before anything is written. Collective."""
    own = sum(
        sharded.data.nbytes
        for sharded in nested_values(state)
        if isinstance(sharded, ShardedTensor) and is_main_replica(sharded.replica_id)
    )
    (needed,) = sum_over(groups.world, [own])
    needed_gib = needed / 2**30
    free_gib = broadcast_object(
        shutil.disk_usage(directory).free / 2**30 if groups.rank == 0 else None, groups.world
    )
    if free_gib < needed_gib:
        raise CheckpointError(
            f"{directory} needs {needed_gib:.2f} GiB and the disk has {free_gib:.2f} GiB free; "
            "make room, or lower trainer.keep_checkpoints"
        )


def read_trainee(directory: Path, trainee: Trainee, *, with_optimizer: bool) -> None:
    """Replace weights and optimizer state by those in ``directory``. Collective.

    Learning rate, decay and the other settings of the optimizer stay as they are.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; the trainee may hold
            parts of both afterwards.
    """
    check_pickles(directory)
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
