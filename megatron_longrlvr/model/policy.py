"""A policy on this rank: description, groups and model chunks, ready to compute.

Shapes: T tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.checkpoint.weights import (
    WEIGHTS_DIRECTORY,
    holds_torch_dist,
    read_weights,
)
from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.build import DTYPES, build_chunks
from megatron_longrlvr.model.hf_weights import load_hf_weights
from megatron_longrlvr.model.local_batch import LocalBatch, localize, placeholder
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.schedule import LogprobSettings, run_micro_batches
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import MicroBatch


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Model chunks of this rank and what is needed to run them."""

    spec: ModelSpec
    groups: ProcessGroups
    model: ModelConfig
    chunks: tuple[PolicyModel, ...]

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.model.dtype]

    def settings(self, temperature: float) -> LogprobSettings:
        return LogprobSettings(
            vocab_size=self.spec.vocab_size,
            temperature=temperature,
            chunk_tokens=self.model.logprob_chunk_tokens,
        )

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
        return [
            localize(
                micro_batch,
                spec=self.spec,
                layout=layout,
                cp_rank=self.groups.cp_rank,
                cp_group=self.groups.cp,
                device=device(),
            )
            for micro_batch in padded
        ]

    def logprobs(self, micro_batches: Sequence[MicroBatch], *, temperature: float) -> list[Tensor]:
        """Log-probabilities of response tokens, without gradient.

        Returns:
            One [T] float32 tensor per micro-batch, 0 outside responses, on every rank.
        """
        local = self.localize(micro_batches)
        sizes = [len(micro_batch.token_ids) for micro_batch in micro_batches]

        def collect(
            index: int,
            batch: LocalBatch,
            logprobs: Tensor,
            entropy: Tensor,  # noqa: ARG001
        ) -> tuple[Tensor, dict[str, Tensor]]:
            size = sizes[index] if index < len(sizes) else 0
            scattered = torch.zeros(size, device=logprobs.device)
            scattered[batch.target_index] = logprobs
            return logprobs.sum(), {"logprobs": scattered}

        for chunk in self.chunks:
            chunk.eval()
        with torch.no_grad():
            results = run_micro_batches(
                self.chunks, local, collect, settings=self.settings(temperature), forward_only=True
            )
        for chunk in self.chunks:
            chunk.train()
        if self.groups.is_last_stage:
            rows = [result["logprobs"] for result in results[: len(sizes)]]
        else:
            rows = [torch.zeros(size, device=device()) for size in sizes]
        return [self.share_from_last_stage(self._sum_over_context(row)) for row in rows]

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


def load_policy(folder: Path, spec: ModelSpec, groups: ProcessGroups, model: ModelConfig) -> Policy:
    """Build a policy and fill it from a Hugging Face folder, or one converted to torch_dist.

    Collective.
    """
    chunks = build_chunks(spec, groups, model)
    if holds_torch_dist(folder):
        read_weights(folder / WEIGHTS_DIRECTORY, chunks, groups)
    else:
        place = {"tp_rank": groups.tp_rank, "tp_size": groups.layout.tp}
        load_hf_weights(chunks, folder, spec, **place)
    return Policy(spec=spec, groups=groups, model=model, chunks=chunks)
