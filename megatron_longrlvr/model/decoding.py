"""Decoding on the learner's own model: a key/value cache and the attention plans that use it.

The samples of a group share their prompt, so its keys and values are held once per prompt;
each sample adds only its response's. Cache slots are places for prompts; a slot has room for
the G samples of one prompt.

Shapes: S slots, G samples per slot, P prompt places, R response places, L tokens of a forward
pass, M key/value heads and H query heads on this rank, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.model.block_attention import attend_blocks
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.model.rope import apply_rotary
from megatron_longrlvr.model.routing import TokenRouting
from megatron_longrlvr.model.sequence_plan import SequencePlan


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """Room in the cache of one layer."""

    num_slots: int
    group_size: int
    prompt_places: int
    response_places: int


@dataclass(frozen=True, kw_only=True)
class LayerCache:
    """Rotated keys, and values, of one layer on this rank."""

    prompt_keys: Tensor
    """[S, M, P, D]."""

    prompt_values: Tensor
    response_keys: Tensor
    """[S * G, M, R, D]."""

    response_values: Tensor


@dataclass(frozen=True, kw_only=True)
class KeyValueCache:
    """Caches of the layers that this rank holds, allocated when a layer is first run."""

    shape: CacheShape
    layers: dict[int, LayerCache] = field(default_factory=dict)

    def layer(self, number: int, like: Tensor) -> LayerCache:
        """Cache of a layer; ``like`` [L, M, D] gives heads, type and device."""
        if number not in self.layers:
            shape, (_, heads, size) = self.shape, like.shape
            prompt = (shape.num_slots, heads, shape.prompt_places, size)
            response = (shape.num_slots * shape.group_size, heads, shape.response_places, size)
            # Zeros: places not yet written are masked, and 0 * NaN would leak through the mask.
            self.layers[number] = LayerCache(
                prompt_keys=like.new_zeros(prompt),
                prompt_values=like.new_zeros(prompt),
                response_keys=like.new_zeros(response),
                response_values=like.new_zeros(response),
            )
        return self.layers[number]


@dataclass(frozen=True, kw_only=True)
class PrefillAttention:
    """Causal attention within packed prompts, whose keys and values go to the cache."""

    cache: KeyValueCache
    plan: SequencePlan
    cos: Tensor
    sin: Tensor
    slots: tuple[int, ...]
    """Slot of each packed prompt."""

    lengths: tuple[int, ...]
    """Tokens of each packed prompt; padding may follow the last."""

    qkv_format: str = "thd"
    routing: TokenRouting | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int) -> Tensor:
        """Attention of [L, H, D] queries; see ``AttentionPlan``."""
        query = apply_rotary(query, self.cos, self.sin)
        key = apply_rotary(key, self.cos, self.sin)
        cached = self.cache.layer(layer, key)
        start = 0
        for slot, length in zip(self.slots, self.lengths, strict=True):
            rows = slice(start, start + length)
            cached.prompt_keys[slot, :, :length] = key[rows].transpose(0, 1)
            cached.prompt_values[slot, :, :length] = value[rows].transpose(0, 1)
            start += length
        return attend_blocks(self.plan, query, key, value)


@dataclass(frozen=True, kw_only=True)
class DecodeAttention:
    """One new token per running sample, against its prompt and its own response so far."""

    cache: KeyValueCache
    rows: Tensor
    """[N] int64: place of each running sample among the S * G; padding tokens follow them."""

    places: Tensor
    """[N] int64: response place of the new token."""

    prompt_lengths: Tensor
    """[S] int64; 0 for an empty slot."""

    response_lengths: Tensor
    """[S * G] int64, the new token included; 0 where no sample runs."""

    cos: Tensor
    """[L, D] float32."""

    sin: Tensor
    qkv_format: str = "thd"
    routing: TokenRouting | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, layer: int) -> Tensor:
        """Attention of [L, H, D] queries; see ``AttentionPlan``."""
        num_running, num_heads, size = len(self.rows), query.size(1), query.size(2)
        query = apply_rotary(query, self.cos, self.sin)[:num_running]
        key = apply_rotary(key, self.cos, self.sin)[:num_running]
        cached = self.cache.layer(layer, key)
        cached.response_keys[self.rows, :, self.places] = key
        cached.response_values[self.rows, :, self.places] = value[:num_running]

        shape = self.cache.shape
        all_queries = query.new_zeros(shape.num_slots * shape.group_size, num_heads, size)
        all_queries[self.rows] = query
        result = self._attend_all(all_queries / math.sqrt(size), cached)
        out = query.new_zeros(len(self.cos), num_heads, size)
        out[:num_running] = result[self.rows]
        return out

    def _attend_all(self, query: Tensor, cached: LayerCache) -> Tensor:
        """[S * G, H, D] results for every sample place."""
        shape = self.cache.shape
        slots, group = shape.num_slots, shape.group_size
        heads, size = cached.prompt_keys.size(1), query.size(-1)
        repeat = query.size(1) // heads
        used = int(self.response_lengths.max())
        response_keys = cached.response_keys[:, :, :used]
        response_values = cached.response_values[:, :, :used]

        # Heads that share a key/value head, and the samples that share a prompt, are rows of one
        # matrix product against the shared keys.
        per_sample = query.view(slots * group, heads, repeat, size)
        per_slot = _to_slots(per_sample, slots, group)
        own = (per_sample @ response_keys.transpose(-1, -2)).float()
        own = own.masked_fill(_beyond(self.response_lengths, used), -torch.inf)
        shared = (per_slot @ cached.prompt_keys.transpose(-1, -2)).float()
        shared = shared.masked_fill(_beyond(self.prompt_lengths, shape.prompt_places), -torch.inf)
        scores = torch.cat([shared, _to_slots(own, slots, group)], dim=-1)
        # A place without a sample has no key at all; its softmax is NaN and never read.
        weights = scores.softmax(dim=-1).to(query.dtype)
        to_prompt = weights[..., : shape.prompt_places]
        to_own = _from_slots(weights[..., shape.prompt_places :], slots, group)
        out = _from_slots(to_prompt @ cached.prompt_values, slots, group)
        out = out + to_own @ response_values
        return out.reshape(slots * group, heads * repeat, size)


def _beyond(lengths: Tensor, num_places: int) -> Tensor:
    """[X, 1, 1, places] bool: places at or after each length."""
    places = torch.arange(num_places, device=lengths.device)
    return (places >= lengths[:, None])[:, None, None, :]


def _to_slots(rows: Tensor, slots: int, group: int) -> Tensor:
    """[S * G, M, r, X] -> [S, M, G * r, X]."""
    heads, repeat, last = rows.shape[1:]
    rows = rows.reshape(slots, group, heads, repeat, last).transpose(1, 2)
    return rows.reshape(slots, heads, group * repeat, last)


def _from_slots(rows: Tensor, slots: int, group: int) -> Tensor:
    """[S, M, G * r, X] -> [S * G, M, r, X]."""
    heads, both, last = rows.shape[1:]
    rows = rows.reshape(slots, heads, group, both // group, last).transpose(1, 2)
    return rows.reshape(slots * group, heads, both // group, last)


def run_pipeline(
    policy: Policy, token_ids: Tensor, plan: PrefillAttention | DecodeAttention, selected: Tensor
) -> Tensor | None:
    """One forward pass through all pipeline stages, without a schedule.

    Every rank of the pipeline calls this with the same tokens.

    Returns:
        [N, H] hidden states of the selected tokens on the last stage, None elsewhere.
    """
    groups, layout = policy.groups, policy.groups.layout
    ranks = dist.get_process_group_ranks(groups.pp)
    before, after = ranks[groups.pp_rank - 1], ranks[(groups.pp_rank + 1) % layout.pp]
    tokens = len(token_ids) // (layout.tp if layout.sequence_parallel else 1)
    for chunk in policy.chunks:
        if not chunk.pre_process:
            received = torch.empty(
                tokens, 1, policy.spec.hidden_size, dtype=policy.dtype, device=token_ids.device
            )
            dist.recv(received, src=before, group=groups.pp)
            chunk.set_input_tensor(received)
        hidden = chunk(token_ids, plan, selected)
        if chunk.post_process:
            assert isinstance(hidden, Tensor)
            return hidden
        dist.send(hidden.contiguous(), dst=after, group=groups.pp)
    return None
