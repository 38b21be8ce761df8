"""Which Hugging Face tensors make up which Megatron parameter, and how tensor parallelism cuts it.

The correspondence is a table of rules. Loading, export, conversion tools and refit all read this
one table and move data only through :func:`shard` and :func:`merge`, which are exact inverses.

Layouts that differ from Hugging Face:

- q, k and v are one matrix whose rows are grouped by kv head: the query heads of the group, then
  its key head, then its value head. A rank holds whole groups.
- gate and up are one matrix. A rank holds its part of gate, then its part of up, so the parts of
  one rank are not neighbours in the unsplit matrix.
- Embedding and output layer have zero rows appended until their rows divide by tp.

Experts are cut over tensor-parallel ranks like any MLP, each of them; expert-parallel ranks hold
whole experts. The table counts experts over the whole layer, whatever a rank holds of them.

The rules import without torch, so that the planner can count by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.expert_spec import ExpertSpec
from megatron_longrlvr.model.family import FAMILIES, ExpertNames
from megatron_longrlvr.model.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor


class Cut(StrEnum):
    """How one Megatron parameter is put together and split over tensor-parallel ranks."""

    REPLICATED = "replicated"
    COLUMNS = "columns"
    VOCABULARY_ROWS = "vocabulary_rows"
    FUSED_QKV = "fused_qkv"
    FUSED_GATE_UP = "fused_gate_up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One Megatron parameter and the Hugging Face tensors it is made of."""

    megatron_name: str
    """Layers and experts count over the whole model, not over what a rank holds of it."""

    hf_names: tuple[str, ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    """Full shape of each Hugging Face tensor."""

    cut: Cut
    expert: int | None = None
    """Expert that the parameter belongs to, from 0; None for what every rank of an
    expert-parallel group holds."""


def rules_for_layer(spec: ModelSpec, layer: int = 0) -> tuple[Rule, ...]:
    """List the rules of one decoder layer, with names relative to the layer.

    Args:
        spec: The model.
        layer: Which layer, from 0; tells apart those with and without experts.
    """
    hidden, dim = spec.hidden_size, spec.head_dim
    q_rows, kv_rows = spec.num_heads * dim, spec.num_kv_heads * dim
    rules = [
        _rule("input_layernorm.weight", {"input_layernorm.weight": (hidden,)}, Cut.REPLICATED),
        _rule(
            "self_attention.linear_qkv.weight",
            {
                "self_attn.q_proj.weight": (q_rows, hidden),
                "self_attn.k_proj.weight": (kv_rows, hidden),
                "self_attn.v_proj.weight": (kv_rows, hidden),
            },
            Cut.FUSED_QKV,
        ),
    ]
    if spec.qkv_bias:
        biases = {
            "self_attn.q_proj.bias": (q_rows,),
            "self_attn.k_proj.bias": (kv_rows,),
            "self_attn.v_proj.bias": (kv_rows,),
        }
        rules.append(_rule("self_attention.linear_qkv.bias", biases, Cut.FUSED_QKV))
    if spec.qk_norm:
        for letter in "qk":
            norm = {f"self_attn.{letter}_norm.weight": (dim,)}
            name = f"self_attention.{letter}_layernorm.weight"
            rules.append(_rule(name, norm, Cut.REPLICATED))
    output = {"self_attn.o_proj.weight": (hidden, q_rows)}
    mlp_norm = {"post_attention_layernorm.weight": (hidden,)}
    return (
        *rules,
        _rule("self_attention.linear_proj.weight", output, Cut.COLUMNS),
        _rule("pre_mlp_layernorm.weight", mlp_norm, Cut.REPLICATED),
        *(_rules_for_experts(spec) if spec.has_experts(layer) else _rules_for_mlp(spec)),
    )


def rules_for_model(spec: ModelSpec) -> tuple[Rule, ...]:
    """List the rules of the whole model in forward order.

    A tied output layer has no rule of its own: see :func:`tied_output_rule`.
    """
    body = rules_for_body(spec)
    if spec.tie_word_embeddings:
        return body
    output = {"lm_head.weight": (spec.vocab_size, spec.hidden_size)}
    return (*body, _rule("output_layer.weight", output, Cut.VOCABULARY_ROWS))


def value_head_rule(spec: ModelSpec) -> Rule:
    """Rule of a critic's head: that of a sequence classifier with one label."""
    return _rule("output_layer.weight", {"score.weight": (1, spec.hidden_size)}, Cut.REPLICATED)


def rules_for_body(spec: ModelSpec) -> tuple[Rule, ...]:
    """List the rules of a model without what stands on top of it."""
    embedding = {"model.embed_tokens.weight": (spec.vocab_size, spec.hidden_size)}
    final_norm = {"model.norm.weight": (spec.hidden_size,)}
    rules = [_rule("embedding.word_embeddings.weight", embedding, Cut.VOCABULARY_ROWS)]
    for layer in range(spec.num_layers):
        rules += [_in_layer(rule, layer) for rule in rules_for_layer(spec, layer)]
    return (*rules, _rule("decoder.final_layernorm.weight", final_norm, Cut.REPLICATED))


def tied_output_rule(spec: ModelSpec) -> Rule:
    """Rule of the copy of a tied embedding that the last pipeline stage holds."""
    embedding = {"model.embed_tokens.weight": (spec.vocab_size, spec.hidden_size)}
    return _rule("output_layer.weight", embedding, Cut.VOCABULARY_ROWS)


def hf_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Full shape of every tensor of a model by its Hugging Face name, in forward order."""
    return shapes_of(rules_for_model(spec))


def shapes_of(rules: Iterable[Rule]) -> dict[str, tuple[int, ...]]:
    """Full shape of every tensor that rules speak of, by its Hugging Face name."""
    return {
        name: shape
        for rule in rules
        for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True)
    }


def hf_slices(
    rule: Rule, spec: ModelSpec, *, tp_rank: int, tp_size: int
) -> tuple[tuple[slice, ...], ...]:
    """Say which part of each Hugging Face tensor a rank needs.

    Returns:
        Per Hugging Face tensor an index, empty for all of it, that reads one contiguous range
        along the first or second dim. Feed the parts to :func:`assemble`.

    Raises:
        ConfigError: ``tp_size`` does not divide what has to be split.
    """
    if rule.cut is Cut.REPLICATED or tp_size == 1:
        return tuple(() for _ in rule.hf_names)
    if rule.cut is Cut.VOCABULARY_ROWS:
        rows = spec.padded_vocab_size(tp_size) // tp_size
        start = min(tp_rank * rows, spec.vocab_size)
        return ((slice(start, min(start + rows, spec.vocab_size)),),)
    if rule.cut is Cut.FUSED_QKV:
        # Whole groups: a rank with half a kv head would have to share it.
        _share(spec.num_kv_heads, tp_size, "num_key_value_heads")
    dim = 1 if rule.cut is Cut.COLUMNS else 0
    indices = []
    for name, shape in zip(rule.hf_names, rule.hf_shapes, strict=True):
        share = _share(shape[dim], tp_size, f"dim {dim} of {name}")
        part = slice(tp_rank * share, (tp_rank + 1) * share)
        indices.append((slice(None), part) if dim else (part,))
    return tuple(indices)


def assemble(rule: Rule, parts: Sequence[Tensor], spec: ModelSpec, *, tp_size: int) -> Tensor:
    """Build a rank's parameter from the parts that :func:`hf_slices` named.

    May return one of ``parts`` itself.
    """
    import torch

    if rule.cut is Cut.VOCABULARY_ROWS:
        (rows,) = parts
        num_missing = spec.padded_vocab_size(tp_size) // tp_size - rows.shape[0]
        return torch.cat([rows, rows.new_zeros(num_missing, *rows.shape[1:])])
    if rule.cut is Cut.FUSED_QKV:
        num_groups = spec.num_kv_heads // tp_size
        by_group = [part.reshape(num_groups, -1, *part.shape[1:]) for part in parts]
        return torch.cat(by_group, dim=1).flatten(0, 1)
    if rule.cut is Cut.FUSED_GATE_UP:
        return torch.cat(list(parts))
    (part,) = parts
    return part


def shard(
    rule: Rule, hf_tensors: Sequence[Tensor], spec: ModelSpec, *, tp_rank: int, tp_size: int
) -> Tensor:
    """Cut one rank's parameter out of full Hugging Face tensors.

    Args:
        rule: Which parameter.
        hf_tensors: Full tensors in the order of ``rule.hf_names``.
        spec: The model.
        tp_rank: Which share.
        tp_size: Number of shares.

    Returns:
        The parameter of that rank; may share memory with ``hf_tensors``.
    """
    indices = hf_slices(rule, spec, tp_rank=tp_rank, tp_size=tp_size)
    parts = [tensor[index] for tensor, index in zip(hf_tensors, indices, strict=True)]
    return assemble(rule, parts, spec, tp_size=tp_size)


def merge(rule: Rule, shards: Sequence[Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """Rebuild the full Hugging Face tensors from the parameters of all tensor-parallel ranks.

    Args:
        rule: Which parameter.
        shards: In order of tensor-parallel rank. Only the first is read where every rank holds
            the same.
        spec: The model.

    Returns:
        Full tensor by Hugging Face name, without padding; owns its memory.
    """
    return {name: merge_one(rule, place, shards, spec) for place, name in enumerate(rule.hf_names)}


def merge_one(rule: Rule, place: int, shards: Sequence[Tensor], spec: ModelSpec) -> Tensor:
    """Rebuild one of the Hugging Face tensors of a rule; allocates nothing besides.

    Args:
        rule: Which parameter.
        place: Which of ``rule.hf_names``.
        shards: As for :func:`merge`.
        spec: The model.

    Returns:
        Full tensor without padding; owns its memory.
    """
    import torch

    if rule.cut is Cut.REPLICATED:
        return shards[0].clone(memory_format=torch.contiguous_format)
    if rule.cut is Cut.COLUMNS:
        return torch.cat(list(shards), dim=1)
    if rule.cut is Cut.VOCABULARY_ROWS:
        rows = len(shards[0])
        return torch.cat(
            [shard[: max(spec.vocab_size - i * rows, 0)] for i, shard in enumerate(shards)]
        )
    if rule.cut is Cut.FUSED_GATE_UP:
        return torch.cat([shard.chunk(2)[place] for shard in shards])
    return torch.cat([_split_qkv(shard, spec)[place] for shard in shards]).flatten(0, 1)


def stored_rows(
    rule: Rule, place: int, rows: tuple[int, int], spec: ModelSpec
) -> tuple[tuple[int, int], ...]:
    """Say where some rows of a Hugging Face tensor lie within the unsplit parameter.

    Args:
        rule: Of the parameter.
        place: Which of ``rule.hf_names``.
        rows: First row of the Hugging Face tensor and end.
        spec: The model.

    Returns:
        First row of the parameter and end, of consecutive parts of ``rows``.
    """
    start, stop = rows
    if rule.cut is not Cut.FUSED_QKV:
        above = sum(shape[0] for shape in rule.hf_shapes[:place])
        return ((above + start, above + stop),)
    group_rows = [shape[0] // spec.num_kv_heads for shape in rule.hf_shapes]
    above, parts = sum(group_rows[:place]), []
    while start < stop:
        group, row = divmod(start, group_rows[place])
        count = min(stop - start, group_rows[place] - row)
        first = group * sum(group_rows) + above + row
        parts.append((first, first + count))
        start += count
    return tuple(parts)


def shard_shape(rule: Rule, spec: ModelSpec, *, tp_size: int) -> tuple[int, ...]:
    """Shape of a rank's parameter, the same on every rank."""
    first = rule.hf_shapes[0]
    if rule.cut is Cut.REPLICATED:
        return first
    if rule.cut is Cut.COLUMNS:
        return (first[0], first[1] // tp_size)
    if rule.cut is Cut.VOCABULARY_ROWS:
        return (spec.padded_vocab_size(tp_size) // tp_size, *first[1:])
    return (sum(shape[0] for shape in rule.hf_shapes) // tp_size, *first[1:])


def _rules_for_mlp(spec: ModelSpec) -> tuple[Rule, ...]:
    hidden, ffn = spec.hidden_size, spec.intermediate_size
    gate_up = {"mlp.gate_proj.weight": (ffn, hidden), "mlp.up_proj.weight": (ffn, hidden)}
    down = {"mlp.down_proj.weight": (hidden, ffn)}
    return (
        _rule("mlp.linear_fc1.weight", gate_up, Cut.FUSED_GATE_UP),
        _rule("mlp.linear_fc2.weight", down, Cut.COLUMNS),
    )


def _rules_for_experts(spec: ModelSpec) -> tuple[Rule, ...]:
    names, experts = FAMILIES[spec.architecture].expert_names, spec.experts
    assert names is not None, f"{spec.architecture} has no experts"
    assert experts is not None, "the layer has no experts"
    router = {names.router: (experts.num_experts, spec.hidden_size)}
    rules = [_rule("mlp.router.weight", router, Cut.REPLICATED)]
    for expert in range(experts.num_experts):
        rules += _rules_for_expert(names, experts, hidden=spec.hidden_size, expert=expert)
    return tuple(rules)


def _rules_for_expert(
    names: ExpertNames, experts: ExpertSpec, *, hidden: int, expert: int
) -> list[Rule]:
    ffn, prefix = experts.intermediate_size, f"mlp.experts.local_experts.{expert}"
    gate, up, down = (
        names.expert.format(expert=expert, matrix=matrix)
        for matrix in (names.gate, names.up, names.down)
    )
    fc1 = {gate: (ffn, hidden), up: (ffn, hidden)}
    return [
        _rule(f"{prefix}.linear_fc1.weight", fc1, Cut.FUSED_GATE_UP, expert=expert),
        _rule(f"{prefix}.linear_fc2.weight", {down: (hidden, ffn)}, Cut.COLUMNS, expert=expert),
    ]


def _split_qkv(fused: Tensor, spec: ModelSpec) -> tuple[Tensor, ...]:
    """Views [groups, rows of a group, ...] of the queries, keys and values of a rank."""
    import torch

    num_query_rows = spec.num_heads // spec.num_kv_heads * spec.head_dim
    group_rows = num_query_rows + 2 * spec.head_dim
    by_group = fused.view(-1, group_rows, *fused.shape[1:])
    return torch.split(by_group, [num_query_rows, spec.head_dim, spec.head_dim], dim=1)


def _share(total: int, tp_size: int, what: str) -> int:
    if total % tp_size:
        raise ConfigError(f"layout.tp={tp_size} does not divide {what}={total}")
    return total // tp_size


def _rule(
    megatron_name: str,
    hf_shapes: Mapping[str, tuple[int, ...]],
    cut: Cut,
    *,
    expert: int | None = None,
) -> Rule:
    return Rule(
        megatron_name=megatron_name,
        hf_names=tuple(hf_shapes),
        hf_shapes=tuple(hf_shapes.values()),
        cut=cut,
        expert=expert,
    )


def _in_layer(rule: Rule, layer: int) -> Rule:
    return replace(
        rule,
        megatron_name=f"decoder.layers.{layer}.{rule.megatron_name}",
        hf_names=tuple(f"model.layers.{layer}.{name}" for name in rule.hf_names),
    )
