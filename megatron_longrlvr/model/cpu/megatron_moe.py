"""megatron-core's mixture-of-experts layers without Transformer Engine and triton."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch

from megatron_longrlvr.model.cpu.patches import record, replace

_TRITON_ONLY = "megatron.core.transformer.moe.ops.paged_stash"


def stub_triton_only_module() -> None:
    """Stand in for a module that imports triton unguarded; must precede megatron.core's import.

    Does nothing where triton is installed or this megatron-core has no such module.
    """
    if importlib.util.find_spec("triton") is not None or not _is_shipped(_TRITON_ONLY):
        return
    sys.modules[_TRITON_ONLY] = _NeedsTriton(_TRITON_ONLY)
    record(f"sys.modules[{_TRITON_ONLY}]", reason="the pipeline schedules import it; no triton")


def patch_megatron_moe() -> None:
    """Let the router and the token dispatchers run on CPU tensors."""
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    if not hasattr(moe_utils, "te_general_gemm"):
        replace(
            moe_utils,
            "te_general_gemm",
            None,
            reason="bound only when Transformer Engine imports; None selects torch.mm",
        )
    move = _as_numpy_on_request(moe_utils.maybe_move_tensor_to_cpu)
    for module in (moe_utils, token_dispatcher):  # the second imported it by name
        replace(
            module,
            "maybe_move_tensor_to_cpu",
            move,
            reason="leaves CPU tensors as they are when asked for numpy split sizes",
        )


class _NeedsTriton(ModuleType):
    """Any function may be imported from it; calling one says what is missing."""

    def __getattr__(self, attribute: str) -> Callable[..., NoReturn]:
        if attribute.startswith("__"):
            raise AttributeError(attribute)

        def missing(*_args: object, **_kwargs: object) -> NoReturn:
            raise RuntimeError(f"{self.__name__}.{attribute} needs triton and a CUDA device")

        return missing


def _is_shipped(module: str) -> bool:
    # find_spec(module) would import megatron.core.
    spec = importlib.util.find_spec("megatron")
    parts = module.split(".")[1:]
    roots = list(spec.submodule_search_locations or ()) if spec else []
    return any(Path(root, *parts).with_suffix(".py").is_file() for root in roots)


def _as_numpy_on_request(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def move(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        moved = original(tensor, as_numpy=as_numpy, record_stream=record_stream)
        return moved.numpy() if as_numpy and torch.is_tensor(moved) else moved

    return move
