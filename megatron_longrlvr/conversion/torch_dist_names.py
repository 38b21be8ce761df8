"""Where megatron-core's torch_dist format keeps a parameter of the weight table.

Layers that are alike are stored as one tensor with a leading dim over layers, and experts as one
with a second leading dim over experts. Norms are named after the linear layer that follows them,
as Transformer Engine's fused layers name them, whoever computes them.
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
    """Index into the leading dims: empty, (layer,) or (layer, expert)."""


def place_of(megatron_name: str, *, has_experts: bool = False) -> Place:
    """Find the place of a parameter, named as in the weight table.

    Args:
        megatron_name: Layers and experts count over the whole model.
        has_experts: Whether the model's layers hold experts; the norm before a router keeps its
            own name.
    """
    match = _LAYER.fullmatch(megatron_name)
    if match is None:
        return Place(key=megatron_name, lead=())
    layer, name = int(match[1]), match[2]
    if expert := _EXPERT.fullmatch(name):
        return Place(
            key=f"decoder.layers.mlp.experts.experts.{expert[2]}", lead=(layer, int(expert[1]))
        )
    if not (has_experts and name.startswith("pre_mlp_layernorm")):
        name = _FUSED_NORMS.get(name, name)
    return Place(key=f"decoder.layers.{name}", lead=(layer,))


def places(rules: Iterable[Rule]) -> dict[str, Place]:
    """Place of every rule's parameter by its Megatron name."""
    listed = list(rules)
    has_experts = any(".experts." in rule.megatron_name for rule in listed)
    return {
        rule.megatron_name: place_of(rule.megatron_name, has_experts=has_experts) for rule in listed
    }


def stored_shapes(
    rules: Iterable[Rule], spec: ModelSpec
) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Leading and remaining shape of every stored tensor, of a model without padded rows."""
    listed = list(rules)
    place_by_name = places(listed)
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for rule in listed:
        place = place_by_name[rule.megatron_name]
        sizes = tuple(index + 1 for index in place.lead)
        before = shapes.get(place.key, (sizes, ()))[0]
        leading = tuple(map(max, before, sizes))
        shapes[place.key] = (leading, shard_shape(rule, spec, tp_size=1))
    return shapes
