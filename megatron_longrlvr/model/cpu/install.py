"""Makes unmodified megatron-core run on CPU tensors and gloo.

``install`` does nothing where CUDA is present. A patch replaces a call that needs a device by
one that does the same on the CPU; blocks that megatron-core lacks without Transformer Engine are
given to it as module specs elsewhere, not patched in.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

from megatron_longrlvr.model.cpu import patches
from megatron_longrlvr.model.cpu.adamw_resume import mend_adamw_resume
from megatron_longrlvr.model.cpu.cuda_api import patch_cuda_api
from megatron_longrlvr.model.cpu.factories import patch_factories
from megatron_longrlvr.model.cpu.megatron_mappings import patch_megatron_mappings
from megatron_longrlvr.model.cpu.megatron_moe import patch_megatron_moe, stub_triton_only_module
from megatron_longrlvr.model.cpu.megatron_optimizer import patch_megatron_optimizer
from megatron_longrlvr.model.cpu.megatron_random import patch_megatron_random

_Function = Callable[..., Any]


def install() -> tuple[str, ...]:
    """Patch torch and megatron-core for a machine without CUDA; safe to call again.

    Returns:
        Names of the patches, empty where CUDA is present.

    Raises:
        RuntimeError: megatron.core was imported first and has bound the unpatched functions.
    """
    if torch.cuda.is_available() or patches.made():
        return installed_patches()
    if "megatron.core" in sys.modules:
        raise RuntimeError(
            "megatron.core was imported before the CPU patches; call "
            "megatron_longrlvr.model.cpu.install.install() ahead of the first megatron.core import"
        )
    # First what megatron-core binds while it is imported, then its own modules.
    _run_compiled_functions_eagerly()
    stub_triton_only_module()
    patch_cuda_api()
    patch_factories()
    with warnings.catch_warnings():
        # Without them is what this package is for.
        warnings.filterwarnings("ignore", "Transformer Engine and Apex are not installed")
        patch_megatron_random()
        patch_megatron_optimizer()
        mend_adamw_resume()
        patch_megatron_mappings()
        patch_megatron_moe()
    return installed_patches()


def installed_patches() -> tuple[str, ...]:
    """Names of the patches in force, in the order in which they were made."""
    return tuple(patch.name for patch in patches.made())


def describe_patches() -> tuple[str, ...]:
    """``name: reason`` of every patch in force, for the log."""
    return tuple(f"{patch.name}: {patch.reason}" for patch in patches.made())


def _compile_nothing(model: _Function | None = None, **_: object) -> Any:
    """In the place of ``torch.compile``, as a call and as a decorator with settings."""
    return _compile_nothing if model is None else model


def _run_compiled_functions_eagerly() -> None:
    # Not by torch.compiler.set_stance: to load the compiler is a third of what a rank imports.
    patches.replace(
        torch,
        "compile",
        _compile_nothing,
        reason="megatron-core's jit_fuser is torch.compile, which would start a C++ compiler",
    )
