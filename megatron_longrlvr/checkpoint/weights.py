"""The weights of model chunks in megatron-core's torch_dist format.

Every tensor is stored under its place in the whole model, so that any layout can load what
another saved.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from megatron_longrlvr.checkpoint.own_slices import OwnSlices
from megatron_longrlvr.conversion.torch_dist_reader import read_index
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.mcore import (
    CheckpointingException,
    ShardedObject,
    StrictHandling,
    dist_checkpointing,
)
from megatron_longrlvr.parallel.groups import ProcessGroups

WEIGHTS_DIRECTORY = "learner"
"""Where the torch_dist files lie within a checkpoint, of a run or converted."""


_HEAD = "output_layer.weight"


def holds_torch_dist(folder: Path) -> bool:
    """Whether a model folder holds its weights as torch_dist."""
    return (folder / WEIGHTS_DIRECTORY / ".metadata").is_file()


def sharding_metadata(groups: ProcessGroups) -> dict[str, Any]:
    """How megatron-core is to name and cut what it saves or loads."""
    return {
        "dp_cp_group": groups.dp_cp,
        # The default cannot be loaded by another layout.
        "distrib_optim_sharding_type": "fully_reshardable",
        "chained_optim_avoid_prefix": True,
        "singleton_local_shards": False,
    }


def weights_state(chunks: Sequence[Any], groups: ProcessGroups) -> dict[str, Any]:
    """Sharded state of this rank's chunks, to save it or to load into."""
    metadata = sharding_metadata(groups)
    return {
        key: _tensors_only(chunk.sharded_state_dict(metadata=metadata))
        for key, chunk in zip(_model_keys(chunks), chunks, strict=True)
    }


def fill_chunks(chunks: Sequence[Any], state: dict[str, Any]) -> None:
    """Put loaded weights into the chunks."""
    for key, chunk in zip(_model_keys(chunks), chunks, strict=True):
        result = chunk.load_state_dict(state[key], strict=False)
        missing = [name for name in result.missing_keys if not name.endswith("_extra_state")]
        assert not missing, f"weights without a place in checkpoints: {missing}"


def read_weights(
    directory: Path, chunks: Sequence[Any], groups: ProcessGroups, *, are_alone: bool = True
) -> None:
    """Fill this rank's chunks from a directory. Collective.

    Values are converted to each parameter's dtype.

    Args:
        directory: With torch_dist files.
        chunks: The rank's pipeline chunks, unwrapped.
        groups: Of the rank.
        are_alone: Whether the directory holds weights and nothing else, as a converted checkpoint
            does; a run's holds the optimizer's state too.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape, or a file is damaged.
    """
    strict = StrictHandling.RAISE_ALL if are_alone else StrictHandling.RAISE_UNEXPECTED
    check_pickles(directory)
    try:
        state = dist_checkpointing.load(
            weights_state(chunks, groups), str(directory), OwnSlices(), strict=strict
        )
    except (CheckpointingException, CheckpointException, OSError) as error:
        raise CheckpointError(f"{directory} does not fit the model: {error}") from error
    fill_chunks(chunks, state)


def read_body(directory: Path, chunks: Sequence[Any], groups: ProcessGroups) -> None:
    """Fill a critic's chunks, but for the value head, from a converted language model. Collective.

    Raises:
        CheckpointError: As for :func:`read_weights`.
    """
    heads: dict[str, dict[str, Any]] = {name: {} for name in _model_keys(chunks)}
    state = weights_state(chunks, groups)
    for key, chunk in zip(heads, chunks, strict=True):
        if chunk.post_process:
            del state[key][_HEAD]
            heads[key] = {_HEAD: chunk.state_dict()[_HEAD]}
    try:
        # The language model's output layer is left over.
        loaded = dist_checkpointing.load(
            state, str(directory), OwnSlices(), strict=StrictHandling.RAISE_UNEXPECTED
        )
    except (CheckpointingException, CheckpointException, OSError) as error:
        raise CheckpointError(f"{directory} does not fit the critic: {error}") from error
    fill_chunks(chunks, {key: {**loaded[key], **head} for key, head in heads.items()})


def check_pickles(directory: Path) -> None:
    """Refuse a directory whose pickles could run code of their own when they are read.

    megatron-core and torch read two files through pickle. ``common.pt`` may hold tensors and plain
    values, as torch's own ``weights_only`` lets in. The index, ``.metadata``, which torch reads
    without a guard, may name the classes of an index and nothing else. Whatever else a checkpoint
    lists that is no tensor is never asked for.

    Raises:
        CheckpointError: Names the file, and what it asks for.
    """
    read_index(directory)
    common = directory / "common.pt"
    try:
        torch.load(common, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return  # megatron-core 0.19 keeps it among the tensors and reads it with weights_only
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{common} holds more than tensors and numbers: {reason}") from error


def _tensors_only(state: dict[str, Any]) -> dict[str, Any]:
    # What is left out is the "extra state" of linear layers, which is None without Transformer
    # Engine and would be read back through unrestricted pickle.
    return {name: value for name, value in state.items() if not isinstance(value, ShardedObject)}


def _model_keys(chunks: Sequence[Any]) -> list[str]:
    # The names that megatron-core's optimizer looks for.
    return ["model"] if len(chunks) == 1 else [f"model{index}" for index in range(len(chunks))]
