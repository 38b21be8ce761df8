"""What attention by segments is, spelled out: a mask by definition and a plain softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_longrlvr.stages import Segment


def segments_of(groups: Sequence[tuple[int, Sequence[int]]]) -> list[Segment]:
    """Segments of prompts, each followed by the responses that continue it."""
    segments: list[Segment] = []
    for prompt, responses in groups:
        place = len(segments)
        segments.append(Segment(num_tokens=prompt))
        segments += [Segment(num_tokens=length, continues=place) for length in responses]
    return segments


def mask_by_definition(segments: Sequence[Segment]) -> Tensor:
    """[T, T]: own segment up to itself, and the whole of the segment it continues."""
    owner = torch.cat([torch.full((s.num_tokens,), i) for i, s in enumerate(segments)])
    continued = torch.tensor([-1 if s.continues is None else s.continues for s in segments])[owner]
    own = (owner[:, None] == owner[None]) & torch.ones(len(owner), len(owner)).tril().bool()
    return own | (continued[:, None] == owner[None])


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """[T, H, D], with autograd."""
    repeat = query.size(1) // key.size(1)
    key, value = (each.repeat_interleave(repeat, dim=1) for each in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.size(-1))
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value)
