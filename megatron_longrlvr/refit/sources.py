"""What a plan has to move, from the weight table."""

from __future__ import annotations

import re

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import Cut, Rule, rules_for_model
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.refit.plan import SourceTensor

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")


def source_tensors(spec: ModelSpec, layout: ParallelLayout) -> list[SourceTensor]:
    """Every tensor of a model in forward order, with who holds it."""
    return [
        SourceTensor(
            hf_name=name,
            shape=shape,
            split_dim=_split_dim(rule),
            part_size=_part_size(rule, shape, spec, layout.tp),
            stage=_stage(rule, spec, layout),
            expert_rank=_expert_rank(rule, spec, layout),
        )
        for rule in rules_for_model(spec)
        for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True)
    ]


def chunk_of(rule: Rule, spec: ModelSpec, layout: ParallelLayout) -> tuple[int, int]:
    """Pipeline stage, and chunk of layers within it, that hold a parameter."""
    match = _LAYER.match(rule.megatron_name)
    if match is None:
        is_first = rule.megatron_name.startswith("embedding.")
        return (0, 0) if is_first else (layout.pp - 1, layout.vpp - 1)
    # Chunks of layers are dealt to the stages in turn.
    chunk, stage = divmod(int(match[1]) // (spec.num_layers // (layout.pp * layout.vpp)), layout.pp)
    return stage, chunk


def _split_dim(rule: Rule) -> int | None:
    if rule.cut is Cut.REPLICATED:
        return None
    return 1 if rule.cut is Cut.COLUMNS else 0


def _part_size(rule: Rule, shape: tuple[int, ...], spec: ModelSpec, tp: int) -> int:
    if rule.cut is Cut.VOCABULARY_ROWS:
        return spec.padded_vocab_size(tp) // tp
    dim = _split_dim(rule)
    return 0 if dim is None else shape[dim] // tp


def _stage(rule: Rule, spec: ModelSpec, layout: ParallelLayout) -> int:
    return chunk_of(rule, spec, layout)[0]


def _expert_rank(rule: Rule, spec: ModelSpec, layout: ParallelLayout) -> int | None:
    if rule.expert is None or spec.experts is None:
        return None
    return rule.expert // (spec.experts.num_experts // layout.ep)
