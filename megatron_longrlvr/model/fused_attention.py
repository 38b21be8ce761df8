"""Transformer Engine's attention behind the plan's rotary embedding, for packed samples.

It gives no log-sum-exp, so nothing can be merged with what it finds: samples that share a prompt
are for ``attention.PlannedAttention``. In return context-parallel ranks need not hold all keys:
they pass them on in a ring (``p2p``) or exchange heads for tokens (``a2a``).

Shapes: L tokens on this rank, H query heads and M key/value heads on this rank, D head size.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.attention import PackedAttention
from megatron_longrlvr.model.mcore import (
    MegatronModule,
    PackedSeqParams,
    TEDotProductAttention,
    TransformerConfig,
)
from megatron_longrlvr.model.sequence_plan import SequencePlan

# Kernels are chosen and cached by the longest sequence: lengths nearby share one.
_LENGTH_STEP = 64


class FusedAttention(MegatronModule):  # type: ignore[misc]
    """Core attention that rotates by the plan and attends with Transformer Engine."""

    def __init__(self, config: TransformerConfig, layer_number: int, **settings: object) -> None:
        super().__init__(config=config)
        self.fused = TEDotProductAttention(config=config, layer_number=layer_number, **settings)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        *,
        packed_seq_params: PackedAttention,
        attn_mask_type: Any = None,  # noqa: ANN401 - megatron-core's enum
        **_: object,
    ) -> Tensor:
        """Attention of [L, H, D] queries over [L, M, D] keys and values: [L, H * D]."""
        plan = packed_seq_params
        out: Tensor = self.fused(
            plan.rotate(query),
            plan.rotate(key),
            value,
            attention_mask,
            attn_mask_type=attn_mask_type,
            packed_seq_params=packed_sequences(plan.plan, query.device),
        )
        return out


def packed_sequences(plan: SequencePlan, device: torch.device) -> PackedSeqParams:
    """The plan's segments as Transformer Engine wants them told.

    Padding stands behind a segment's tokens, where causality hides it from them, so it is told as
    tokens like any other: then every number of the result is written, and finite.

    Raises:
        ValueError: Segments share a prompt.
    """
    if plan.shares_prompts:
        raise ValueError(
            "samples that share a prompt were packed for model.attention=transformer_engine; set "
            "algorithm.shared_prompt=false"
        )
    ends = torch.tensor([0, *accumulate(plan.lengths)], dtype=torch.int32).to(device)
    longest = -(-max(plan.lengths) // _LENGTH_STEP) * _LENGTH_STEP
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=ends,
        cu_seqlens_kv=ends,
        cu_seqlens_q_padded=ends,
        cu_seqlens_kv_padded=ends,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )
