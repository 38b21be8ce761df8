"""The engine's end of a refit within one process: a backend of vLLM's weight transfer.

Importing this module registers the backend. vLLM runs in the training process, so a bucket is
handed over as it is, without a copy; vLLM's own loader cuts it for the engine's ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.refit.checksum import checksum

BACKEND = "longrlvr_process"


@dataclass
class _Init(WeightTransferInitInfo):  # type: ignore[misc] # vllm is untyped
    pass


@dataclass
class Bucket(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Some Hugging Face tensors."""

    names: Sequence[str]
    tensors: Sequence[torch.Tensor]
    checksums: Mapping[str, int] | None = None
    """Of the tensors as they were sent, by name; None where this update is not verified."""


class ProcessReceiver(WeightTransferEngine):  # type: ignore[misc]
    """Loads buckets into the model of this process."""

    init_info_cls = _Init
    update_info_cls = Bucket

    def init_transfer_engine(self, init_info: _Init) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: Bucket) -> None:
        tensors = dict(zip(update_info.names, update_info.tensors, strict=True))
        for name, sent in (update_info.checksums or {}).items():
            arrived = checksum(tensors[name])
            if arrived != sent:
                raise RefitMismatch(
                    f"a bucket was corrupted on its way to the engine: {name} has checksum "
                    f"{arrived:x} and was sent with {sent:x}"
                )
        self.model.load_weights(tensors.items())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        pack_what_vllm_leaves(self.model)

    def shutdown(self) -> None:
        """Nothing to disconnect."""


def pack_what_vllm_leaves(model: Any) -> None:  # noqa: ANN401 - a model of untyped vllm
    """Pack new weights for a CPU engine's products, where vLLM does so at the first load alone."""
    _pack_tied_output(model)
    _pack_experts(model)


def _pack_experts(model: Any) -> None:  # noqa: ANN401
    """Pack the experts that an update has brought; vLLM would take them for packed ones."""
    if not current_platform.is_cpu():
        return
    for module in model.modules():
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None:
            kernel.fused_experts.process_weights_after_loading(module)


def _pack_tied_output(model: Any) -> None:  # noqa: ANN401 - a model of untyped vllm
    """Make the packed output layer of a CPU engine from the new embedding, where they are tied.

    vLLM packs a layer when its weights have been loaded, and a tied output layer has none.
    """
    head, body = getattr(model, "lm_head", None), getattr(model, "model", None)
    embedding = getattr(body, "embed_tokens", None)
    if head is None or embedding is None or not hasattr(head, "cpu_linear"):
        return
    if model.config.tie_word_embeddings:
        head.weight = embedding.weight
        dispatch_cpu_unquantized_gemm(head, remove_weight=False)


# vLLM's factory refuses a name twice and offers no look-up.
if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ProcessReceiver)
