"""Random generator states of one rank, in a safetensors file.

Sampling counts instead of drawing and models have no dropout, so that nothing of a run depends
on these today; they are kept so that a component which starts to draw still resumes exactly.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_longrlvr.checkpoint.tensor_file import write_tensors
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.mcore import get_cuda_rng_tracker
from megatron_longrlvr.parallel.device import has_cuda

_TRACKED = "megatron."


def random_state_path(directory: Path, rank: int) -> Path:
    """File of one rank."""
    return directory / "random" / f"rank_{rank:05d}.safetensors"


def save_random_state(directory: Path, rank: int) -> None:
    """Write the states of python, numpy, torch and megatron-core's tracker on this rank.

    Raises:
        CheckpointError: The file cannot be written.
    """
    python = random.getstate()
    legacy = numpy.random.get_state(legacy=False)
    keys = legacy["state"].pop("key")
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(keys.astype(numpy.int64)),
        "python": torch.tensor(python[1]),
        **{f"{_TRACKED}{key}": state.cpu() for key, state in _tracked().items()},
    }
    if has_cuda():
        tensors["cuda"] = torch.cuda.get_rng_state()
    scalars = {"python": [python[0], python[2]], "numpy": legacy}
    path = random_state_path(directory, rank)
    write_tensors(path, tensors, {"scalars": json.dumps(scalars)})


def load_random_state(directory: Path, rank: int) -> None:
    """Put this rank's generators back to where the same rank of the same layout left them.

    Raises:
        CheckpointError: The file cannot be read or lacks a state.
    """
    path = random_state_path(directory, rank)
    try:
        tensors, scalars = _read(path)
        version, gauss_next = scalars["python"]
        python = (version, tuple(tensors["python"].tolist()), gauss_next)
        legacy = scalars["numpy"]
        legacy["state"]["key"] = tensors["numpy"].numpy().astype(numpy.uint32)
        torch_state = tensors["torch"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold this rank's random states: {error}") from error
    random.setstate(python)
    numpy.random.set_state(legacy)
    torch.set_rng_state(torch_state)
    if has_cuda() and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"])
    get_cuda_rng_tracker().set_states(
        {key.removeprefix(_TRACKED): tensors[key] for key in tensors if key.startswith(_TRACKED)}
    )


def _tracked() -> dict[str, Tensor]:
    states: dict[str, Tensor] = get_cuda_rng_tracker().get_states()
    return states


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no iterator
        return tensors, json.loads(file.metadata()["scalars"])
