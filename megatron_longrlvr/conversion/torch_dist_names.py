"""Where megatron-core's torch_dist format keeps a parameter of the weight table.

Layers that are alike are stored as one tensor with a leading dim over layers; those of a mixture
whose layers differ are stored apart, each under its number. Experts of a layer are one tensor with
a leading dim over experts. Norms are named after the linear layer that follows them, as
Transformer Engine's fused layers name them, whoever computes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.model.weight_map import Rule, shard_shape

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(.+)")
_FUSED_NORMS = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """One parameter within a stored tensor."""

    key: str
    lead: tuple[int, ...]
    """Index into the leading dims: of the layer where layers are alike, then of the expert."""


def places(rules: Iterable[Rule], spec: ModelSpec) -> dict[str, Place]:
    """Place of every rule's parameter by its Megatron name."""
    are_alike = spec.experts is None or not spec.experts.dense_layers
    return {
        rule.megatron_name: _place_of(rule.megatron_name, layers_are_alike=are_alike)
        for rule in rules
    }


def stored_shapes(
    rules: Iterable[Rule], spec: ModelSpec
) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Leading and remaining shape of every stored tensor, of a model without padded rows."""
    listed = list(rules)
    place_by_name = places(listed, spec)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for rule in listed:
        place = place_by_name[rule.megatron_name]
        sizes = tuple(index + 1 for index in place.lead)
        before = shapes.get(place.key, (sizes, ()))[0]
        leading = tuple(map(max, before, sizes))
        shapes[place.key] = (leading, shard_shape(rule, spec, tp_size=1))
    return shapes


def _place_of(megatron_name: str, *, layers_are_alike: bool) -> Place:
    match = _LAYER.fullmatch(megatron_name)
    if match is None:
        return Place(key=megatron_name, lead=())
    layer, name = int(match[1]), match[2]
    prefix, lead = (
        ("decoder.layers", (layer,)) if layers_are_alike else (f"decoder.layers.{layer}", ())
    )
    if expert := _EXPERT.fullmatch(name):
        key = f"{prefix}.mlp.experts.experts.{expert[2]}"
        return Place(key=key, lead=(*lead, int(expert[1])))
    return Place(key=f"{prefix}.{_FUSED_NORMS.get(name, name)}", lead=lead)
