"""Names that NeMo-Aligner imports from NeMo and TensorRT-LLM, where these do not import.

``nemo_aligner.algorithms.ppo`` imports its stock actor, and with it all of NeMo and TensorRT-LLM,
to annotate one argument. Where NeMo is absent, empty modules hold the names that the import chain
asks for: three of them work, because the loop calls them (the timer, the split of a batch, the
logger); the others raise when they are used.
Where NeMo is installed each name is NeMo's own if it imports. Much of NeMo may not: its packages
import hundreds of modules and some ninety other libraries, of versions that need not be the ones
here. Such a package is left empty, and what lies inside it is tried by itself.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from megatron_longrlvr.aligner.presence import Presence


def absent(name: str, *, library: str = "NeMo") -> type:
    """A class that can be inherited from and compared with, and says what is missing when used."""

    def refuse(_self: object, *_args: object, **_kwargs: object) -> None:
        raise RuntimeError(f"{name} is {library}'s, which is not installed or does not import")

    return type(name, (), {"__init__": refuse})


class NamedTimer:
    """Last duration by name; what NeMo-Aligner's ``ScopedTimer`` asks of NeMo's class."""

    def __init__(self, *_args: object, sync_cuda: bool = False, **_kwargs: object) -> None:
        self._sync_cuda = sync_cuda
        self._started: dict[str, float] = {}
        self._durations: dict[str, float] = {}

    def start(self, name: str = "") -> None:
        self._started[name] = self._now()

    def stop(self, name: str = "") -> None:
        self._durations[name] = self._now() - self._started.pop(name)

    def get(self, name: str = "") -> float:
        return self._durations[name]

    def _now(self) -> float:
        if self._sync_cuda and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def get_iterator_k_split(batch: Mapping[str, Any], num_parts: int) -> Iterator[dict[str, Any]]:
    """Rows of every entry in ``num_parts`` equal parts, in order."""
    rows = {len(entry) for entry in batch.values()}
    if len(rows) != 1 or rows.pop() % num_parts:
        lengths = {name: len(entry) for name, entry in batch.items()}
        raise ValueError(f"entries do not divide into {num_parts} equal parts: {lengths}")
    parts = {name: torch.tensor_split(entry, num_parts) for name, entry in batch.items()}
    return iter(
        [{name: parts[name][index] for name in batch} for index in range(num_parts)],
    )


_MEGATRON = "nemo.collections.nlp.modules.common.megatron"
_DATA = "nemo.collections.nlp.data.language_modeling.megatron"

NEMO_NAMES: Mapping[str, Mapping[str, object]] = {
    "nemo.utils": {"logging": logging.getLogger("nemo"), "AppState": absent("AppState")},
    "nemo.utils.timers": {"NamedTimer": NamedTimer},
    "nemo.utils.exp_manager": {"NeMoModelCheckpoint": absent("NeMoModelCheckpoint")},
    "nemo.core.classes.mixins.adapter_mixins": {"AdapterModuleMixin": absent("AdapterModuleMixin")},
    f"{_DATA}.data_samplers": {
        "MegatronPretrainingRandomSampler": absent("MegatronPretrainingRandomSampler")
    },
    f"{_DATA}.megatron_batch_samplers": {
        "MegatronPretrainingRandomBatchSampler": absent("MegatronPretrainingRandomBatchSampler")
    },
    f"{_MEGATRON}.utils": {
        "get_iterator_k_split": get_iterator_k_split,
        "get_ltor_masks_and_position_ids": absent("get_ltor_masks_and_position_ids"),
    },
    f"{_MEGATRON}.clip_grads": {
        name: absent(name)
        for name in ("clip_grad_norm_distributed_optimizer", "clip_grad_norm_fp32")
    },
    f"{_MEGATRON}.module": {"Float16Module": absent("Float16Module")},
    "nemo.collections.nlp.modules.common.text_generation_utils": {
        "get_model_parallel_src_rank": absent("get_model_parallel_src_rank")
    },
    "nemo.collections.nlp.parts.nlp_overrides": {
        "NLPSaveRestoreConnector": absent("NLPSaveRestoreConnector")
    },
    "nemo.collections.nlp.parts.utils_funcs": {
        "torch_dtype_from_precision": absent("torch_dtype_from_precision")
    },
}
"""Names by the module that NeMo-Aligner imports them from."""

TENSORRT_LLM_NAMES: Mapping[str, Mapping[str, object]] = {
    # It imports tensorrt_llm whether or not it is wanted.
    "nemo_aligner.utils.trt_llm": {
        "GPTGenerateTRTLLM": absent("GPTGenerateTRTLLM", library="TensorRT-LLM")
    }
}
"""The same of TensorRT-LLM."""

ACTOR_NAMES: Mapping[str, Mapping[str, object]] = {
    # Built on NeMo's GPT model; the trainer names it in an annotation.
    "nemo_aligner.models.nlp.gpt.megatron_gpt_ppo_actor": {
        "MegatronGPTActorModel": absent("MegatronGPTActorModel")
    }
}
"""NeMo-Aligner's own that need both; it imports the names above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StandIn:
    """One name that is not the real one."""

    name: str
    """Dotted, as it is imported."""

    reason: str


def install_stand_ins(presence: Presence) -> tuple[StandIn, ...]:
    """Put stand-ins where Python looks for imported modules; call once, before NeMo-Aligner.

    Imports what is installed of NeMo, which takes a minute, and may fail in any way.

    Returns:
        Names that are not real, empty where all of them import.
    """
    no_nemo = "" if presence.nemo else "NeMo is not installed"
    no_tensorrt = "" if presence.tensorrt_llm else "TensorRT-LLM is not installed"
    return (
        *_stand_in(NEMO_NAMES, no_nemo),
        *_stand_in(TENSORRT_LLM_NAMES, no_nemo or no_tensorrt),
        *_stand_in(ACTOR_NAMES, no_nemo),
    )


def describe_stand_ins(presence: Presence, stand_ins: Sequence[StandIn]) -> Iterator[str]:
    """Lines for the log: what is real, and where something is, why each other name is not."""
    count = f", {len(stand_ins)} stand-in names" if stand_ins else ""
    yield f"loop: PPOTrainer of {presence.describe()}{count}"
    if presence.nemo is not None:
        yield from (f"stand-in for {one.name}: {one.reason}" for one in stand_ins)


def _stand_in(table: Mapping[str, Mapping[str, object]], absence: str) -> Iterator[StandIn]:
    for module_name, values in table.items():
        module, problem = _open(module_name, absence)
        for name, value in values.items():
            if not problem and hasattr(module, name):
                continue
            setattr(module, name, value)
            reason = problem or f"{module_name} has no such name"
            yield StandIn(name=f"{module_name}.{name}", reason=reason)


def _open(name: str, absence: str) -> tuple[ModuleType, str]:
    """A module to find names in, and why it is not the real one, or nothing where it is.

    Args:
        name: Dotted.
        absence: Why not to look for the real one, or nothing.
    """
    if name in sys.modules:
        return sys.modules[name], absence
    parent = name.rpartition(".")[0]
    # NeMo-Aligner's own packages are always there.
    if parent:
        _open(parent, "" if parent.startswith("nemo_aligner") else absence)
    problem = absence or _try_import(name)
    return (_put_empty(name, problem) if problem else sys.modules[name]), problem


def _try_import(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in somebody else's code
        return f"{type(error).__name__}: {error}"
    return ""


def _put_empty(name: str, problem: str) -> ModuleType:
    module = ModuleType(name, f"Stand-in: {problem}")
    module.__path__ = _folders(name)
    sys.modules[name] = module
    parent, _, own = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], own, module)
    return module


def _folders(name: str) -> list[str]:
    """Where the modules of a package lie; nowhere if there is no such package."""
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:  # what it is said to lie in is no package
        return []
    return list(spec.submodule_search_locations or ()) if spec else []
