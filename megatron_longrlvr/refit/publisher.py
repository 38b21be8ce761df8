"""The learner's end of a refit within one process: gather, hand over, reset, verify.

What is compared after an update are checksums of columns of every tensor, taken on the learner's
side while it is handed over and on the engine's side from what it computes with afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.model.hf_export import export_hf
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.observability import names
from megatron_longrlvr.refit.buckets import fill_buckets
from megatron_longrlvr.refit.checksum import checksum
from megatron_longrlvr.refit.marks import (
    explain_difference,
    held_names,
    mark,
    marked_columns,
    read_mark,
)
from megatron_longrlvr.refit.readback import Holding, holdings
from megatron_longrlvr.refit.settings import RefitSettings
from megatron_longrlvr.stages import PolicyVersion

_GIGA = 1e9


@dataclass(kw_only=True)
class _Update:
    """One update on its way."""

    version: PolicyVersion
    is_verified: bool
    num_columns: int | None
    """Columns to compare of each tensor; None for all of them."""

    num_bytes: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    """Checksum of the sampled columns by the name under which the engine holds them."""


class ProcessPublisher:
    """Hands the weights of a policy to the vLLM engine of the same process."""

    def __init__(self, policy: Policy, llm: Any, settings: RefitSettings) -> None:  # noqa: ANN401
        self.policy = policy
        self.llm = llm
        self.settings = settings
        self.num_updates = 0
        llm.init_weight_transfer_engine({"init_info": {}})
        self.holdings: dict[str, Holding] = {
            holding.hf_name: holding for holding in holdings(engine_model(llm))
        }

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Give the engine the policy's present weights; every rank calls this alike.

        Returns:
            Size and speed by metric name.

        Raises:
            RefitMismatch: The engine does not hold what was sent, or kept its prefix cache.
        """
        every = self.settings.verify_every
        update = _Update(
            version=version,
            is_verified=every > 0 and self.num_updates % every == 0,
            num_columns=self.settings.verify_columns,
        )
        start = time.perf_counter()
        self._send(update)
        self._reset_prefix_cache(version)
        sent = time.perf_counter()
        if update.is_verified:
            self._compare(update)
        self.num_updates += 1
        seconds = sent - start
        return {
            names.REFIT_GB: update.num_bytes / _GIGA,
            names.REFIT_GB_PER_S: update.num_bytes / _GIGA / seconds,
            names.REFIT_VERIFY_S: time.perf_counter() - sent,
        }

    def differing_tensors(self, version: PolicyVersion) -> list[str]:
        """Tensors of the engine that differ from the policy's present ones in any number.

        Every rank calls this; nothing is changed.
        """
        update = _Update(version=version, is_verified=True, num_columns=None)
        for name, tensor in export_hf(self.policy, bucket_bytes=self.settings.bucket_bytes):
            self._mark(update, name, tensor)
        return self._differing(update)

    def _send(self, update: _Update) -> None:
        self.llm.start_weight_update()
        for bucket in fill_buckets(self._tensors(update), bucket_bytes=self.settings.bucket_bytes):
            checksums = None
            if update.is_verified:
                checksums = {name: checksum(tensor) for name, tensor in bucket.items()}
            self._hand_over(bucket, checksums)
        self.llm.finish_weight_update(str(update.version))

    def _hand_over(self, bucket: Mapping[str, Tensor], checksums: Mapping[str, int] | None) -> None:
        info = {
            "names": list(bucket),
            "tensors": list(bucket.values()),
            "checksums": checksums,
        }
        self.llm.update_weights({"update_info": info})

    def _tensors(self, update: _Update) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in export_hf(self.policy, bucket_bytes=self.settings.bucket_bytes):
            if update.is_verified:
                self._mark(update, name, tensor)
            update.num_bytes += tensor.nbytes
            yield name, tensor

    def _mark(self, update: _Update, name: str, tensor: Tensor) -> None:
        for engine_name in held_names(name, is_tied=self.policy.spec.tie_word_embeddings):
            holding = self.holdings.get(engine_name)
            if holding is not None:
                update.marks[engine_name] = mark(tensor, holding, self._columns(holding, update))

    def _columns(self, holding: Holding, update: _Update) -> list[int]:
        return marked_columns(holding, count=update.num_columns, version=update.version)

    def _compare(self, update: _Update) -> None:
        if differing := self._differing(update):
            raise RefitMismatch(
                explain_difference(differing, total=len(update.marks), version=update.version)
            )

    def _differing(self, update: _Update) -> list[str]:
        return [
            name for name, mark in update.marks.items() if self._read_mark(name, update) != mark
        ]

    def _read_mark(self, name: str, update: _Update) -> int:
        holding = self.holdings[name]
        return read_mark(holding, self._columns(holding, update))

    def _reset_prefix_cache(self, version: PolicyVersion) -> None:
        if not self.llm.reset_prefix_cache():
            raise RefitMismatch(
                f"the engine refused to reset its prefix cache for version {version}: "
                "requests are still running"
            )
        num_blocks = num_cached_blocks(self.llm)
        if num_blocks:
            raise RefitMismatch(
                f"the reset of the prefix cache was skipped: {num_blocks} blocks computed with "
                f"older weights are left at version {version}"
            )


def engine_model(llm: Any) -> Any:  # noqa: ANN401 - untyped vllm
    """The model that the engine of this process computes with."""
    worker = llm.llm_engine.model_executor.driver_worker.worker
    return worker.model_runner.model


def num_cached_blocks(llm: Any) -> int:  # noqa: ANN401 - untyped vllm
    """Blocks that a later prompt could find in the prefix cache."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    return len(scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block)
