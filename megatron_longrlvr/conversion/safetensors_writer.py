"""Writing safetensors files whose tensors come in any order, from any number of processes.

The format: 8 bytes that count the header's, a JSON header with type, shape and place of each
tensor, then the values. All places are known from the shapes, so every process can write its
tensors where they belong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_longrlvr.conversion.source_files import write_all

_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
# safetensors aligns the values like this.
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlace:
    """Where a tensor's values lie within a folder."""

    file: str
    start: int
    """Byte of the file at which they start."""

    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FilePlan:
    """One file before its values are there."""

    name: str
    header: bytes
    """With the count before it."""

    nbytes: int
    """Of the whole file."""

    places: Mapping[str, TensorPlace]


def plan_file(name: str, tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> FilePlan:
    """Lay out a file of the given shapes and dtypes, in their order."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    ends: dict[str, tuple[int, int]] = {}
    end = 0
    for tensor, (shape, dtype) in tensors.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        ends[tensor] = (start, end)
        entries[tensor] = {
            "dtype": _TYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return FilePlan(
        name=name,
        header=header,
        nbytes=len(header) + end,
        places={
            tensor: TensorPlace(file=name, start=len(header) + start, nbytes=stop - start)
            for tensor, (start, stop) in ends.items()
        },
    )


def create_file(folder: Path, plan: FilePlan) -> None:
    """Make a file of the final size whose values are zero."""
    with (folder / plan.name).open("wb") as file:
        file.write(plan.header)
        file.truncate(plan.nbytes)


def put_values(values: Tensor, descriptor: int, at: int) -> None:
    """Put contiguous values at a byte of an open file.

    Raises:
        OSError: The disk is full, among others.
    """
    write_all(descriptor, values.contiguous().reshape(-1).view(torch.uint8).numpy().data, at)
