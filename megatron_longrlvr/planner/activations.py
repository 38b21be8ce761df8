"""Bytes that autograd keeps between forward and backward, by what is recomputed.

Counted from the tensors that the layers of :mod:`megatron_longrlvr.model.build` save, one term for
each; ``tools/check_activations.py`` compares the sums with what saved-tensor hooks see.

Shapes: t tokens of a rank's share of a micro-batch (T / cp), H hidden, q and kv widths of queries
and of keys, F feed-forward width, e bytes of an element.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.planner.workload import Recompute

_FP32 = 4
_INT64 = 8
# Six numbers of a token: its distance from the return, free and bounded, the clamped move, the two
# losses that the larger is taken of, and the token's weight.
_VALUE_LOSS_BYTES = 6 * _FP32


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShape:
    """Sizes of one layer on one rank."""

    spec: ModelSpec
    layout: ParallelLayout
    tokens: int
    """t, padding included."""

    element_bytes: int

    @property
    def sequence_share(self) -> float:
        """Tokens between the tensor-parallel regions: a part of t under sequence parallelism."""
        return self.tokens / (self.layout.tp if self.layout.sequence_parallel else 1)

    @property
    def query_width(self) -> float:
        return self.spec.num_heads * self.spec.head_dim / self.layout.tp

    @property
    def key_width(self) -> float:
        return self.spec.num_kv_heads * self.spec.head_dim / self.layout.tp


def layer_input_bytes(shape: LayerShape) -> float:
    """Hidden states between two layers."""
    return shape.sequence_share * shape.spec.hidden_size * shape.element_bytes


def layer_bytes(shape: LayerShape, recompute: Recompute, *, has_experts: bool) -> float:
    """What one layer keeps for its backward pass."""
    if recompute == "full":
        return layer_input_bytes(shape)
    mlp = _expert_bytes(shape) if has_experts else _mlp_bytes(shape)
    return 2 * _norm_bytes(shape) + _attention_bytes(shape, recompute) + mlp


def core_attention_bytes(shape: LayerShape) -> float:
    """What the core attention keeps when it is run again: rotated inputs, result, log-sum-exp."""
    element, key, cp = shape.element_bytes, shape.key_width, shape.layout.cp
    heads = shape.spec.num_heads / shape.layout.tp
    keys = cp * 2 * key if cp > 1 else key
    return shape.tokens * (element * (2 * shape.query_width + keys) + _FP32 * heads)


def behind_attention_bytes(shape: LayerShape, *, has_experts: bool) -> float:
    """What a layer's second half keeps, which backward is done with when it reaches attention."""
    mlp = _expert_bytes(shape) if has_experts else _mlp_bytes(shape)
    return _norm_bytes(shape) + mlp


def head_bytes(shape: LayerShape, predictions: int, *, has_value_head: bool = False) -> float:
    """What the last stage keeps beyond its layers: final norm, and hidden states that predict.

    Args:
        shape: Of the stage's layers.
        predictions: Response tokens that this context-parallel rank predicts.
        has_value_head: Whether a critic's head reads them.
    """
    hidden = shape.spec.hidden_size * shape.element_bytes
    # Norm up to its weight; the product goes on as a gathered tensor that nothing saves.
    norm = _norm_bytes(shape) - layer_input_bytes(shape)
    if has_value_head:
        # Index int64, hidden states in fp32, and the loss of the values they became.
        return norm + predictions * (_INT64 + _FP32 * shape.spec.hidden_size + _VALUE_LOSS_BYTES)
    # Index and target int64, log-normaliser and entropy fp32.
    return norm + predictions * (hidden + 2 * _INT64 + 2 * _FP32)


def input_bytes(shape: LayerShape) -> float:
    """What the first stage keeps beyond its layers: token ids, as the embedding saw them."""
    return shape.tokens * _INT64


def rotation_bytes(shape: LayerShape, recompute: Recompute) -> float:
    """Cosines and sines, held once by all layers; recomputed layers take the micro-batch's own."""
    return 2 * shape.tokens * shape.spec.head_dim * _FP32 if recompute == "none" else 0.0


def _norm_bytes(shape: LayerShape) -> float:
    # fp32 input and its inverse root; the normed tensor before and after the weight.
    hidden = shape.spec.hidden_size
    per_token = _FP32 * hidden + _FP32 + 2 * shape.element_bytes * hidden
    return shape.sequence_share * per_token


def _attention_bytes(shape: LayerShape, recompute: Recompute) -> float:
    element, query, key = shape.element_bytes, shape.query_width, shape.key_width
    t, cp = shape.tokens, shape.layout.cp
    fused = element * (query + 2 * key)  # queries, keys and values are one tensor
    out = element * query
    total = t * (_head_norm_bytes(shape) + out)
    if recompute == "selective":
        # The core attention's inputs: normed ones are tensors of their own; otherwise keys are a
        # part of the fused tensor, and queries a copy where they lie scattered among several keys.
        is_scattered = shape.spec.num_kv_heads > shape.layout.tp
        own_queries = element * query if shape.spec.qk_norm or is_scattered else 0
        own_keys = element * key if shape.spec.qk_norm else 0
        return total + t * (fused + own_queries + own_keys)
    heads = shape.spec.num_heads / shape.layout.tp
    rotated = element * query
    if cp > 1:
        # Keys and values of all context-parallel ranks, in place of this rank's own.
        gathered = cp * t * 2 * element * key
        return total + t * (rotated + _FP32 * heads) + gathered
    return total + t * (rotated + element * key + fused + _FP32 * heads)


def _head_norm_bytes(shape: LayerShape) -> float:
    if not shape.spec.qk_norm:
        return 0.0
    width = shape.query_width + shape.key_width
    heads = (shape.spec.num_heads + shape.spec.num_kv_heads) / shape.layout.tp
    return _FP32 * (width + heads) + shape.element_bytes * width


def _mlp_bytes(shape: LayerShape) -> float:
    # Gate and up as one tensor of width 2F, then three of width F on the way to their product.
    ffn = shape.spec.intermediate_size / shape.layout.tp
    return shape.tokens * 5 * ffn * shape.element_bytes


def _expert_bytes(shape: LayerShape) -> float:
    spec = shape.spec
    assert spec.experts is not None, "the layer has no experts"
    experts = spec.experts
    ffn = experts.intermediate_size / shape.layout.tp
    # Rows that a rank's experts compute, if the router spreads tokens evenly.
    rows = shape.tokens * experts.num_per_token
    per_row = shape.element_bytes * (spec.hidden_size + 6 * ffn) + _FP32
    # Router: logits and mask over all experts, the choice and its weights, and the way back.
    choice = experts.num_per_token * (2 * _INT64 + _FP32)
    router = shape.sequence_share * (experts.num_experts * (_FP32 + 1) + choice)
    return rows * per_row + router
