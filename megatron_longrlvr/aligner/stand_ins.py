"""Names that NeMo-Aligner imports from NeMo and TensorRT-LLM, where these are not installed.

``nemo_aligner.algorithms.ppo`` imports its stock actor, and with it all of NeMo and TensorRT-LLM,
to annotate one argument. Where NeMo is absent, empty modules hold the names that the import chain
asks for: three of them work, because the loop calls them (the timer, the split of a batch, the
logger); the others raise when they are used.
Where NeMo is installed nothing of it is replaced, only NeMo-Aligner's module on TensorRT-LLM, and
only where that library is absent.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import torch

from megatron_longrlvr.aligner.presence import Presence


def absent(name: str, *, library: str = "NeMo") -> type:
    """A class that can be inherited from and compared with, and says what is missing when used."""

    def refuse(_self: object, *_args: object, **_kwargs: object) -> None:
        raise RuntimeError(f"{name} needs {library}, which is not installed")

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
    # Built on NeMo's GPT model; the trainer names it in an annotation.
    "nemo_aligner.models.nlp.gpt.megatron_gpt_ppo_actor": {
        "MegatronGPTActorModel": absent("MegatronGPTActorModel")
    },
}
"""Names by the module that NeMo-Aligner imports them from, where NeMo is absent."""

TENSORRT_LLM_NAMES: Mapping[str, Mapping[str, object]] = {
    # It imports tensorrt_llm whether or not it is wanted.
    "nemo_aligner.utils.trt_llm": {
        "GPTGenerateTRTLLM": absent("GPTGenerateTRTLLM", library="TensorRT-LLM")
    }
}
"""The same where NeMo is installed and TensorRT-LLM is absent."""


def install_stand_ins(presence: Presence) -> tuple[str, ...]:
    """Put stand-in modules where Python looks for imported ones; safe to call again.

    Returns:
        Dotted names that stand in for others, empty where everything is installed.
    """
    if presence.nemo is None:
        tables = NEMO_NAMES
    elif presence.tensorrt_llm is None:
        tables = TENSORRT_LLM_NAMES
    else:
        return ()
    for module, values in tables.items():
        _module(module).__dict__.update(values)
    return tuple(f"{module}.{name}" for module, values in tables.items() for name in values)


def _module(name: str) -> ModuleType:
    """The module of that name; an empty one, and empty packages above it, where there is none."""
    if name in sys.modules:
        return sys.modules[name]
    parent, _, own = name.rpartition(".")
    module = ModuleType(name, "Stand-in for a library that is not installed.")
    module.__path__ = []
    # Of nemo_aligner's own packages only the leaf is replaced.
    if parent and not parent.startswith("nemo_aligner"):
        setattr(_module(parent), own, module)
    sys.modules[name] = module
    return module
