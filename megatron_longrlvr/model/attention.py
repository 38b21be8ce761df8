"""The core attention plugged into megatron-core: rotary embedding and attention by a plan.

megatron-core hands its ``packed_seq_params`` through to the core attention untouched. We pass
an object that knows the tokens' positions and who attends to whom, so that packed training,
context parallelism and decoding against a cache are one module with different plans, and
rotary positions need not follow the order of tokens in memory.

Shapes: L tokens on this rank, H query heads and M key/value heads on this rank, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_longrlvr.model.block_attention import attend_blocks
from megatron_longrlvr.model.mcore import (
    MegatronModule,
    TransformerConfig,
    gather_from_sequence_parallel_region,
)
from megatron_longrlvr.model.rope import apply_rotary
from megatron_longrlvr.model.routing import TokenRouting
from megatron_longrlvr.model.sequence_plan import SequencePlan


class AttentionPlan(Protocol):
    """Computes attention for one forward pass, in every layer."""

    qkv_format: str
    """``"thd"``: tells megatron-core's self-attention that tokens are packed."""

    routing: TokenRouting | None
    """What routers are told of these tokens; read by layers with experts."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int) -> Tensor:
        """Attention of [L, H, D] queries over [L, M, D] keys and values: [L, H, D]."""
        ...


class PlannedAttention(MegatronModule):  # type: ignore[misc]
    """Core attention that leaves the work to the plan given with each call."""

    def __init__(self, config: TransformerConfig, layer_number: int, **_: object) -> None:
        super().__init__(config=config)
        self.layer_number = layer_number

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,  # noqa: ARG002 - megatron-core's signature
        *,
        packed_seq_params: AttentionPlan,
        **_: object,
    ) -> Tensor:
        return packed_seq_params.attend(query, key, value, layer=self.layer_number)


@dataclass(frozen=True, kw_only=True)
class PackedAttention:
    """Attention by a sequence plan; keys are gathered over context-parallel ranks."""

    plan: SequencePlan
    cos: Tensor
    """[L, D] float32."""

    sin: Tensor
    cp_group: ProcessGroup
    qkv_format: str = "thd"
    routing: TokenRouting | None = None

    def rotate(self, heads: Tensor) -> Tensor:
        """Rotary embedding of [L, N, D] queries or keys."""
        return apply_rotary(heads, self.cos, self.sin)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int) -> Tensor:  # noqa: ARG002
        query, key = self.rotate(query), self.rotate(key)
        if self.cp_group.size() > 1:
            # All context-parallel ranks run the same layers on the same micro-batch, so all of
            # them reach this all-gather (forward) and reduce-scatter (backward).
            joined = gather_from_sequence_parallel_region(
                torch.cat([key, value], dim=-1),
                tensor_parallel_output_grad=True,
                group=self.cp_group,
            )
            key, value = joined.split(key.size(-1), dim=-1)
        return attend_blocks(self.plan, query, key, value)
