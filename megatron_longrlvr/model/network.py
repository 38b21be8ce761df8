"""A model on this rank: description, groups and chunks, ready to compute.

Shapes: T tokens of a micro-batch, N response tokens predicted on this rank, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.build import DTYPES
from megatron_longrlvr.model.local_batch import LocalBatch, localize, placeholder
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.precision import row_multiple
from megatron_longrlvr.model.routing import route_micro_batch
from megatron_longrlvr.model.schedule import run_pipeline
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import MicroBatch

Readout = Callable[[PolicyModel, Tensor, LocalBatch], Tensor]
"""(last chunk, its hidden states [N, H], what it was run on) -> [N], one number a token."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Model chunks of this rank and what is needed to run them."""

    spec: ModelSpec
    groups: ProcessGroups
    model: ModelConfig
    chunks: tuple[PolicyModel, ...]
    replays_routing: bool = False
    """Whether tokens go to the experts that the engine chose, where their micro-batch knows."""

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.model.dtype]

    def localize(self, micro_batches: Sequence[MicroBatch]) -> list[LocalBatch]:
        """This rank's share of each micro-batch, with placeholders where the schedule needs them.

        Every rank runs at least one micro-batch, because the reduction of gradients follows the
        last one; an interleaved pipeline takes whole rounds of them.
        """
        layout = self.groups.layout
        count = max(len(micro_batches), 1)
        if layout.ep > 1:
            count = self._largest_over_data_parallel(count)
        if layout.vpp > 1:
            count = -(-count // layout.pp) * layout.pp
        missing = count - len(micro_batches)
        padded = [*micro_batches, *[placeholder() for _ in range(missing)]]
        local = [
            localize(
                micro_batch,
                spec=self.spec,
                layout=layout,
                cp_rank=self.groups.cp_rank,
                cp_group=self.groups.cp,
                multiple=row_multiple(layout, self.model.fp8),
                device=device(),
            )
            for micro_batch in padded
        ]
        if self.spec.experts is None:
            return local
        real = zip(micro_batches, local, strict=False)  # placeholders are neither counted nor told
        return [*(self._routed(*pair) for pair in real), *local[len(micro_batches) :]]

    def read(self, micro_batches: Sequence[MicroBatch], readout: Readout) -> list[Tensor]:
        """What a head says about each response token, without gradient.

        Returns:
            One [T] float32 tensor per micro-batch, 0 outside responses, on every rank.
        """
        local = self.localize(micro_batches)
        sizes = [len(micro_batch.token_ids) for micro_batch in micro_batches]

        def collect(
            index: int, batch: LocalBatch, chunk: PolicyModel, hidden: Tensor
        ) -> tuple[Tensor, dict[str, Tensor]]:
            found = readout(chunk, hidden, batch)
            size = sizes[index] if index < len(sizes) else 0
            scattered = torch.zeros(size, device=found.device)
            scattered[batch.target_index] = found
            return found.sum(), {"row": scattered}

        for chunk in self.chunks:
            chunk.eval()
        with torch.no_grad():
            results = run_pipeline(self.chunks, local, collect, forward_only=True)
        for chunk in self.chunks:
            chunk.train()
        if self.groups.is_last_stage:
            rows = [result["row"] for result in results[: len(sizes)]]
        else:
            rows = [torch.zeros(size, device=device()) for size in sizes]
        return [self.share_from_last_stage(self._sum_over_context(row)) for row in rows]

    def _routed(self, micro_batch: MicroBatch, local: LocalBatch) -> LocalBatch:
        routing = route_micro_batch(
            micro_batch,
            local.attention.plan.token_index,
            layout=self.groups.layout,
            tp_rank=self.groups.tp_rank,
            is_replayed=self.replays_routing,
        )
        return replace(local, attention=replace(local.attention, routing=routing))

    def share_from_last_stage(self, values: Tensor) -> Tensor:
        """Give every pipeline stage the last stage's values, in place."""
        if self.groups.layout.pp > 1:
            last = dist.get_process_group_ranks(self.groups.pp)[-1]
            dist.broadcast(values, src=last, group=self.groups.pp)
        return values

    def _sum_over_context(self, values: Tensor) -> Tensor:
        # Each context-parallel rank filled in the tokens it predicts; all ranks hold every row.
        if self.groups.layout.cp > 1:
            dist.all_reduce(values, group=self.groups.cp)
        return values

    def _largest_over_data_parallel(self, count: int) -> int:
        largest = torch.tensor(count, device=device())
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.groups.dp)
        return int(largest)
