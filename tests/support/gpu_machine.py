"""What GPU and which libraries for it this machine has."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import torch

from megatron_longrlvr.parallel.device import has_cuda

CAPABILITIES = {"fp8": (8, 9), "blockwise": (9, 0), "mxfp8": (10, 0)}
"""Compute capability from which on Transformer Engine computes so."""

_MODULES = {"te": "transformer_engine", "vllm": "vllm"}


def missing(needs: Sequence[str]) -> str | None:
    """The first need that this machine does not meet, in words; None where it meets all."""
    for need in needs:
        if need in _MODULES and importlib.util.find_spec(_MODULES[need]) is None:
            return f"{_MODULES[need]}, which is not installed"
        if need in CAPABILITIES and capability() < CAPABILITIES[need]:
            least = ".".join(map(str, CAPABILITIES[need]))
            return f"compute capability {least} for {need}"
    return None


def capability() -> tuple[int, int]:
    """Of the present GPU; (0, 0) without one."""
    return torch.cuda.get_device_capability() if has_cuda() else (0, 0)


def total_gib() -> float | None:
    """Memory of the present GPU; None without one."""
    return torch.cuda.get_device_properties(0).total_memory / 2**30 if has_cuda() else None


def describe_gpu() -> dict[str, Any] | None:
    """Name, memory, driver and CUDA versions for a record; None without a GPU."""
    if not has_cuda():
        return None
    memory = total_gib()
    return {
        "name": torch.cuda.get_device_name(0),
        "memory_gib": None if memory is None else round(memory, 1),
        "capability": ".".join(map(str, capability())),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return answer.splitlines()[0].strip() if answer.strip() else None
