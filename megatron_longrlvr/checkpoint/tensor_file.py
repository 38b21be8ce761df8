"""Small safetensors files of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from megatron_longrlvr.errors import CheckpointError


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file, in a folder that is made if need be.

    Raises:
        CheckpointError: It cannot be written; names it.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {path}: {error}") from error
