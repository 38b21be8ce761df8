"""A vLLM server's end of a refit: a backend of vLLM's weight transfer.

A server imports this module as its workers' extension, which registers the backend. A bucket is a
safetensors file in shared memory, or on a file system that learner and server share; or it comes by
broadcast from the learner, to all workers of all servers. vLLM's own loader cuts it for the
engine's ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from megatron_longrlvr.refit.bucket_reader import BucketReader, GroupInfo, ServerBucket
from megatron_longrlvr.refit.marks import marked_columns, read_mark
from megatron_longrlvr.refit.readback import holdings
from megatron_longrlvr.refit.receiver import pack_what_vllm_leaves
from megatron_longrlvr.refit.settings import SERVER_BACKEND


@dataclass
class _GroupInfo(GroupInfo, WeightTransferInitInfo):  # type: ignore[misc] # vllm is untyped
    pass


@dataclass
class _ServerBucket(ServerBucket, WeightTransferUpdateInfo):  # type: ignore[misc]
    pass


class ServerReceiver(WeightTransferEngine):  # type: ignore[misc]
    """Loads buckets into the model of a worker."""

    init_info_cls = _GroupInfo
    update_info_cls = _ServerBucket

    @cached_property
    def reader(self) -> BucketReader:
        """Of this worker."""
        return BucketReader(self.device)

    def init_transfer_engine(self, init_info: GroupInfo) -> None:
        self.reader.join(init_info, worker=self.parallel_config.rank)

    def start_weight_update(self) -> None:
        self.reader.begin()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ServerBucket) -> None:
        # One that did not arrive must not end vLLM's update: it is sent again.
        if tensors := self.reader.read(update_info):
            self.model.load_weights(tensors.items())

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        pack_what_vllm_leaves(self.model)

    def shutdown(self) -> None:
        self.reader.leave()


class RefitExtension:
    """What a worker answers besides vLLM's own calls; mixed into vLLM's worker class."""

    model_runner: Any
    weight_transfer_engine: ServerReceiver
    _weight_update_active: bool

    def longrlvr_forget_update(self) -> dict[str, bool]:
        """Give up an update that was left in the middle, so that the next one can begin.

        Returns:
            Whether there was one.
        """
        was_active, self._weight_update_active = self._weight_update_active, False
        for layer in self.weight_transfer_engine.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():  # ready for weights, and stays so
                info.load_numel = 0
                info.loaded_weights = []
        return {"was_active": was_active}

    def longrlvr_read_buckets(self) -> dict[str, int]:
        """How many buckets of the last update this worker has read."""
        return {"buckets": self.weight_transfer_engine.reader.num_read}

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
if SERVER_BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(SERVER_BACKEND, ServerReceiver)
