"""Transformer Engine's attention as its documentation describes it, in torch, for tests on CPU.

Takes what megatron-core's ``TEDotProductAttention`` takes. Sequences lie one behind the other
(``thd``); a context-parallel rank holds the pieces r and ``2 * cp - 1 - r`` of each. What the real
one refuses is refused here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from megatron_longrlvr.model.mcore import gather_from_sequence_parallel_region


class CpuDotProductAttention(torch.nn.Module):
    """Causal attention within each sequence."""

    def __init__(
        self, config, layer_number, *, attn_mask_type, attention_type, pg_collection, **settings
    ):
        super().__init__()
        assert attention_type == "self"
        assert attn_mask_type.name in ("causal", "padding_causal")
        assert layer_number >= 1
        self.cp_group = pg_collection.cp
        # megatron-core gives it where there are context-parallel ranks.
        if config.context_parallel_size > 1:
            assert settings["cp_comm_type"] in ("all_gather", "p2p", "a2a")

    def forward(
        self, query, key, value, attention_mask, *, attn_mask_type, packed_seq_params
    ) -> Tensor:
        told = packed_seq_params
        assert attention_mask is None
        assert attn_mask_type.name in ("causal", "padding_causal")
        assert told.qkv_format == "thd"
        ends = told.cu_seqlens_q
        assert ends.dtype == torch.int32
        for other in (told.cu_seqlens_kv, told.cu_seqlens_q_padded, told.cu_seqlens_kv_padded):
            assert torch.equal(other, ends)
        lengths = ends.diff().tolist()
        assert told.max_seqlen_q == told.max_seqlen_kv >= max(lengths)
        cp, rank = self.cp_group.size(), self.cp_group.rank()
        assert all(length % (2 * cp) == 0 for length in lengths) or cp == 1
        assert len(query) == sum(lengths) // cp
        if cp > 1:
            key, value = (self._of_all_ranks(each, lengths) for each in (key, value))
        pieces, start, first = [], 0, 0
        for length in lengths:
            rows = query[start : start + length // cp]
            seen = slice(first, first + length)
            pieces.append(_attend(rows, held_places(length, cp, rank), key[seen], value[seen]))
            start, first = start + length // cp, first + length
        return torch.cat(pieces).flatten(1)

    def _of_all_ranks(self, values: Tensor, lengths: list[int]) -> Tensor:
        cp = self.cp_group.size()
        gathered = gather_from_sequence_parallel_region(
            values, tensor_parallel_output_grad=True, group=self.cp_group
        )
        order, start = torch.empty(sum(lengths), dtype=torch.int64), 0
        for length in lengths:
            for rank in range(cp):
                rows = torch.arange(length // cp) + start // cp + rank * len(values)
                order[start + held_places(length, cp, rank)] = rows
            start += length
        return gathered[order]


def held_places(length: int, cp: int, rank: int) -> Tensor:
    """Places of a sequence that a context-parallel rank holds."""
    pieces = torch.arange(length).chunk(2 * cp) if cp > 1 else (torch.arange(length),)
    return pieces[0] if cp == 1 else torch.cat([pieces[rank], pieces[2 * cp - 1 - rank]])


def _attend(query: Tensor, places: Tensor, key: Tensor, value: Tensor) -> Tensor:
    repeat = query.size(1) // key.size(1)
    key, value = (each.repeat_interleave(repeat, dim=1) for each in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.size(-1))
    is_hidden = torch.arange(len(key))[None] > places[:, None]
    return torch.einsum(
        "hqk,khd->qhd", scores.masked_fill(is_hidden, -torch.inf).softmax(-1), value
    )
