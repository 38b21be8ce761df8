"""One context-parallel rank's share of a micro-batch, aligned for prediction.

Records index tokens by themselves: entry t speaks about token t. A model's output at a token
predicts the next one of its sample. The step between the two happens here and nowhere else.

Shapes: T tokens of the micro-batch, L tokens on this rank (padding included), N response
tokens predicted on this rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_longrlvr.algorithms.rows import unlearned_row
from megatron_longrlvr.model.attention import PackedAttention
from megatron_longrlvr.model.rope import inverse_frequencies, rotation
from megatron_longrlvr.model.sequence_plan import SequencePlan, plan_sequences
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.stages import MicroBatch, Segment


@dataclass(frozen=True, kw_only=True)
class LocalBatch:
    """What one rank feeds to its model chunks, and which outputs it reads."""

    token_ids: Tensor
    """[L] int64; 0 at padding."""

    attention: PackedAttention
    selected: Tensor
    """[N] int64 into the L tokens: those whose output predicts a response token, once for each."""

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
    multiple: int,
    device: torch.device,
) -> LocalBatch:
    """Cut a micro-batch for one context-parallel rank.

    Every sample's first token must belong to its prompt: nothing predicts it.

    Args:
        micro_batch: Of all ranks.
        spec: The model.
        layout: How it is cut.
        cp_rank: This rank's place in ``cp_group``.
        cp_group: Ranks that share the micro-batch.
        multiple: Its tokens, padding included, divide by this (``precision.row_multiple``).
        device: Where the tensors go.
    """
    plan = plan_sequences(
        micro_batch.segments,
        cp=layout.cp,
        cp_rank=cp_rank,
        multiple=multiple,
        device=device,
    )
    token_ids = micro_batch.token_ids.to(device)
    selected, target_index = _predicted(micro_batch, plan, device)
    is_real = plan.token_index >= 0
    source = plan.token_index.clamp(min=0)
    inverse, scaling = inverse_frequencies(spec.rope, spec.head_dim)
    cos, sin = rotation(plan.positions, inverse.to(device), scaling)
    return LocalBatch(
        token_ids=torch.where(is_real, token_ids[source], 0),
        attention=PackedAttention(plan=plan, cos=cos, sin=sin, cp_group=cp_group),
        selected=selected,
        target_ids=token_ids[target_index],
        target_index=target_index,
    )


def _predicted(
    micro_batch: MicroBatch, plan: SequencePlan, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Outputs that predict response tokens on this rank: [N] local tokens, [N] what they predict.

    The last token of a shared prompt predicts the first token of each of its responses, so it
    may be there more than once.
    """
    predictors = _predictors(micro_batch.segments).to(device)
    targets = torch.nonzero(micro_batch.is_response.to(device)).squeeze(1)
    predictors = predictors[targets]
    assert bool((predictors >= 0).all()), (
        "a sample starts with a response token, which nothing predicts"
    )
    is_real = plan.token_index >= 0
    local = torch.full((len(micro_batch.token_ids),), -1, dtype=torch.int64, device=device)
    local[plan.token_index[is_real]] = torch.nonzero(is_real).squeeze(1)
    rows = local[predictors]
    is_here = rows >= 0
    return rows[is_here], targets[is_here]


def _predictors(segments: Sequence[Segment]) -> Tensor:
    """[T] int64: the token whose output predicts each token; -1 where a sample starts."""
    ends = list(accumulate(segment.num_tokens for segment in segments))
    predictors = torch.arange(-1, ends[-1] - 1)
    for segment, end in zip(segments, ends, strict=True):
        before = -1 if segment.continues is None else ends[segment.continues] - 1
        predictors[end - segment.num_tokens] = before
    return predictors


def placeholder() -> MicroBatch:
    """A micro-batch without response tokens, for ranks that must take part with nothing to do."""
    return unlearned_row([0, 0], num_given=2)
