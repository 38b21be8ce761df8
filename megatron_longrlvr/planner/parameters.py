"""Parameters, gradients and optimizer state of each pipeline stage, exactly as they are allocated.

Sizes come from the weight table; what pads them is megatron-core's doing
(``_ParamAndGradBuffer`` in ``core/distributed/param_and_grad_buffer.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import (
    Rule,
    rules_for_body,
    rules_for_model,
    shard_shape,
    tied_output_rule,
    value_head_rule,
)
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.refit.sources import chunk_of

# The distributed optimizer's alignments, in elements: of a parameter, and of a bucket.
_PARAMETER_ALIGNMENT = 64
_BUCKET_ALIGNMENT = 128

_GRADIENT_BYTES = 4
_STATE_BYTES = 8  # AdamW's two moments, fp32
_MASTER_BYTES = 4  # fp32 copy of a bf16 weight


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """Parameters of one rank, in elements."""

    dense: int
    """Held alike by the ranks of a data- and context-parallel group."""

    experts: int
    dense_buffer: int
    """Elements that the buffers of gradients hold for them, padding included."""

    expert_buffer: int

    @property
    def parameters(self) -> int:
        return self.dense + self.experts

    @property
    def buffer(self) -> int:
        return self.dense_buffer + self.expert_buffer


@lru_cache(maxsize=4096)  # a search asks for every layout many times
def stage_holdings(
    spec: ModelSpec, layout: ParallelLayout, *, is_sharded: bool, has_value_head: bool = False
) -> tuple[Holding, ...]:
    """What a rank of each pipeline stage holds.

    Args:
        spec: The model.
        layout: How it is cut.
        is_sharded: Whether the optimizer is the distributed one, whose buffers are padded.
        has_value_head: Whether it is a critic's, whose embedding is tied to nothing.
    """
    by_chunk: dict[tuple[int, int], list[tuple[Rule, int]]] = {}
    for rule in _held_rules(spec, layout, has_value_head=has_value_head):
        size = math.prod(shard_shape(rule, spec, tp_size=layout.tp))
        by_chunk.setdefault(chunk_of(rule, spec, layout), []).append((rule, size))
    holdings = []
    for stage in range(layout.pp):
        chunks = [by_chunk.get((stage, chunk), []) for chunk in range(layout.vpp)]
        holdings.append(_holding(chunks, spec, layout, is_sharded=is_sharded))
    return tuple(holdings)


def optimizer_bytes(
    holding: Holding, layout: ParallelLayout, *, element_bytes: int, is_sharded: bool
) -> float:
    """State of AdamW on one rank: moments, and master weights where weights are bf16.

    Sharded state is even to within the padding of a buffer.
    """
    per_element = _STATE_BYTES + (_MASTER_BYTES if element_bytes < _MASTER_BYTES else 0)
    if not is_sharded:
        return per_element * holding.parameters
    dense = holding.dense / (layout.dp * layout.cp)
    return per_element * (dense + holding.experts / layout.expert_dp)


def gradient_bytes(holding: Holding) -> int:
    """Buffers of gradients, in fp32 whatever the weights are."""
    return _GRADIENT_BYTES * holding.buffer


def weight_bytes(holding: Holding, *, element_bytes: int, is_sharded: bool) -> int:
    """Weights; the distributed optimizer keeps them in buffers like those of the gradients."""
    return element_bytes * (holding.buffer if is_sharded else holding.parameters)


@lru_cache
def model_parameters(spec: ModelSpec, *, has_value_head: bool = False) -> int:
    """Parameters of the whole model, a tied embedding once."""
    rules = _all_rules(spec, has_value_head=has_value_head)
    return sum(math.prod(shape) for rule in rules for shape in rule.hf_shapes)


@lru_cache(maxsize=8)
def _all_rules(spec: ModelSpec, *, has_value_head: bool) -> tuple[Rule, ...]:
    if has_value_head:
        return (*rules_for_body(spec), value_head_rule(spec))
    return rules_for_model(spec)


def _held_rules(spec: ModelSpec, layout: ParallelLayout, *, has_value_head: bool) -> Iterable[Rule]:
    for rule in _all_rules(spec, has_value_head=has_value_head):
        # Experts are alike: those of the first expert-parallel rank stand for any other's.
        held = spec.experts.num_experts // layout.ep if spec.experts is not None else 0
        if rule.expert is None or rule.expert < held:
            yield rule
    if spec.tie_word_embeddings and layout.pp > 1:
        yield tied_output_rule(spec)


def _holding(
    chunks: list[list[tuple[Rule, int]]],
    spec: ModelSpec,
    layout: ParallelLayout,
    *,
    is_sharded: bool,
) -> Holding:
    def is_shared(rule: Rule) -> bool:
        # A tied embedding that two stages hold has a bucket of its own.
        is_edge = rule.megatron_name.startswith(("embedding.", "output_layer."))
        return is_edge and spec.tie_word_embeddings and layout.pp > 1

    dense, experts, dense_buffer, expert_buffer = 0, 0, 0, 0
    for chunk in chunks:
        own = [size for rule, size in chunk if rule.expert is None and not is_shared(rule)]
        shared = [size for rule, size in chunk if is_shared(rule)]
        of_experts = [size for rule, size in chunk if rule.expert is not None]
        dense += sum(own) + sum(shared)
        experts += sum(of_experts)
        ranks = layout.dp * layout.cp if is_sharded else None
        dense_buffer += _padded(own, ranks) + _padded(shared, ranks)
        expert_buffer += _padded(of_experts, layout.expert_dp if is_sharded else None)
    return Holding(
        dense=dense, experts=experts, dense_buffer=dense_buffer, expert_buffer=expert_buffer
    )


def _padded(sizes: list[int], ranks: int | None) -> int:
    if ranks is None or not sizes:
        return sum(sizes)
    aligned = sum(_up(size, _PARAMETER_ALIGNMENT) for size in sizes)
    return _up(aligned, math.lcm(ranks, _BUCKET_ALIGNMENT))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
