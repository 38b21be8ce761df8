"""One context-parallel rank's share of a micro-batch, aligned for prediction.

Records index tokens by themselves: entry t speaks about token t. A model's output at a token
predicts the next one. The shift between the two happens here and nowhere else.

Shapes: T tokens of the micro-batch, L tokens on this rank (padding included), N response
tokens predicted on this rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_longrlvr.model.attention import PackedAttention
from megatron_longrlvr.model.rope import inverse_frequencies, rotation
from megatron_longrlvr.model.sequence_plan import plan_sequences
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.stages import MicroBatch


@dataclass(frozen=True, kw_only=True)
class LocalBatch:
    """What one rank feeds to its model chunks, and which outputs it reads."""

    token_ids: Tensor
    """[L] int64; 0 at padding."""

    attention: PackedAttention
    selected: Tensor
    """[N] int64 into the L tokens: those whose successor is a response token."""

    target_ids: Tensor
    """[N] int64 token predicted at each selected place."""

    target_index: Tensor
    """[N] int64 into the T tokens: where the predicted token stands in the micro-batch."""


def localize(
    micro_batch: MicroBatch,
    *,
    spec: ModelSpec,
    layout: ParallelLayout,
    cp_rank: int,
    cp_group: ProcessGroup,
    device: torch.device,
) -> LocalBatch:
    """Cut a micro-batch for one context-parallel rank.

    Every sample's first token must belong to its prompt: nothing predicts it.
    """
    lengths = micro_batch.cu_seqlens.diff().tolist()
    plan = plan_sequences(
        lengths,
        cp=layout.cp,
        cp_rank=cp_rank,
        multiple=layout.sequence_multiple,
        device=device,
    )
    token_ids = micro_batch.token_ids.to(device)
    is_response = micro_batch.is_response.to(device)
    assert not is_response[micro_batch.cu_seqlens[:-1].to(device).long()].any(), (
        "a sample starts with a response token, which nothing predicts"
    )
    # The last token of a sample is followed by the next sample's first, which is never a
    # response token, so shifting the whole row crosses no boundary.
    predicts_response = torch.zeros_like(is_response)
    predicts_response[:-1] = is_response[1:]

    is_real = plan.token_index >= 0
    source = plan.token_index.clamp(min=0)
    selected = torch.nonzero(is_real & predicts_response[source]).squeeze(1)
    target_index = source[selected] + 1
    inverse, scaling = inverse_frequencies(spec.rope, spec.head_dim)
    cos, sin = rotation(plan.positions, inverse.to(device), scaling)
    return LocalBatch(
        token_ids=torch.where(is_real, token_ids[source], 0),
        attention=PackedAttention(plan=plan, cos=cos, sin=sin, cp_group=cp_group),
        selected=selected,
        target_ids=token_ids[target_index],
        target_index=target_index,
    )


def placeholder(device: torch.device) -> MicroBatch:
    """A micro-batch without response tokens, for ranks that must take part with nothing to do."""
    zeros = torch.zeros(2, device=device)
    return MicroBatch(
        token_ids=zeros.long(),
        cu_seqlens=torch.tensor([0, 2], dtype=torch.int32, device=device),
        is_response=zeros.bool(),
        advantages=zeros,
        behavior_logprobs=zeros,
        loss_weights=zeros,
        sample_ids=(),
    )
