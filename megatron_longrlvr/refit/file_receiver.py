"""A vLLM server's end of a refit through files: a backend of vLLM's weight transfer.

A server imports this module as its workers' extension, which registers the backend. A bucket is a
safetensors file in shared memory, or on a file system that learner and server share; vLLM's own
loader cuts it for the engine's ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load_file
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.refit.checksum import checksum
from megatron_longrlvr.refit.marks import marked_columns, read_mark
from megatron_longrlvr.refit.readback import holdings
from megatron_longrlvr.refit.receiver import pack_what_vllm_leaves
from megatron_longrlvr.refit.settings import FILES_BACKEND


@dataclass
class _Init(WeightTransferInitInfo):  # type: ignore[misc] # vllm is untyped
    pass


@dataclass
class FileBucket(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Some Hugging Face tensors in a file."""

    path: str
    checksums: Mapping[str, str] | None = None
    """Of the tensors as they were sent, by name; None where this update is not verified. As text,
    since not every reader of JSON keeps 64 bits of a number."""


class FileReceiver(WeightTransferEngine):  # type: ignore[misc]
    """Loads buckets into the model of a worker."""

    init_info_cls = _Init
    update_info_cls = FileBucket

    def init_transfer_engine(self, init_info: _Init) -> None:
        """Nothing to connect."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FileBucket) -> None:
        tensors = load_file(update_info.path, device=str(self.device))
        for name, sent in (update_info.checksums or {}).items():
            arrived = checksum(tensors[name])
            if str(arrived) != sent:
                raise RefitMismatch(
                    f"a bucket was corrupted on its way to the engine: {name} has checksum "
                    f"{arrived:x} and was sent with {int(sent):x}"
                )
        self.model.load_weights(tensors.items())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        pack_what_vllm_leaves(self.model)

    def shutdown(self) -> None:
        """Nothing to disconnect."""


class RefitExtension:
    """What a worker answers besides vLLM's own calls; mixed into vLLM's worker class."""

    model_runner: Any

    def longrlvr_held_parts(self) -> dict[str, Any]:
        """The parts that this worker holds: rows, columns and dtype by Hugging Face name."""
        return {
            part.hf_name: {
                "rows": [part.rows.start, part.rows.stop],
                "columns": part.columns and [part.columns.start, part.columns.stop],
                "dtype": str(part.dtype).removeprefix("torch."),
            }
            for part in holdings(self.model_runner.model)
        }

    def longrlvr_read_marks(self, version: str, num_columns: str) -> dict[str, str]:
        """Marks of what this worker computes with, as text.

        Args:
            version: Policy version, in digits.
            num_columns: Columns to compare of each tensor, in digits.
        """
        return {
            part.hf_name: str(
                read_mark(part, marked_columns(part, count=int(num_columns), version=int(version)))
            )
            for part in holdings(self.model_runner.model)
        }


# vLLM's factory refuses a name twice and offers no look-up.
if FILES_BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(FILES_BACKEND, FileReceiver)
