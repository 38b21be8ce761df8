"""Floating-point operations that a model needs, counted from its shapes.

Model FLOPs in the usual sense: multiplications and additions of the matrix products (a product of
[m, k] and [k, n] is ``2 m k n``), attention only where it is causal, no recomputation, no
optimizer. Backward costs twice forward. Norms, activations and rotations are left out: they are
below one percent from hidden size 1024 on.

This module imports without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_longrlvr.model.spec import ModelSpec

FORWARD = 1
FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a forward pass goes through, apart from the model's sizes."""

    tokens: int
    """Run through the layers."""

    pairs: int
    """Of a query and a key that it sees."""

    predictions: int
    """Tokens whose logits are computed."""

    def __add__(self, other: Work) -> Work:
        return Work(
            tokens=self.tokens + other.tokens,
            pairs=self.pairs + other.pairs,
            predictions=self.predictions + other.predictions,
        )


NO_WORK = Work(tokens=0, pairs=0, predictions=0)


def group_work(prompt: int, responses: Sequence[int], *, shared_prompt: bool) -> Work:
    """Log-probabilities of all responses to one prompt.

    Args:
        prompt: Tokens of the prompt.
        responses: Tokens of each response.
        shared_prompt: The prompt is computed once; otherwise once for each response.
    """
    times = 1 if shared_prompt else len(responses)
    written = sum(responses)
    return Work(
        tokens=times * prompt + written,
        pairs=times * causal_pairs(prompt)
        + sum(causal_pairs(length, before=prompt) for length in responses),
        predictions=written,
    )


def sampling_work(prompt: int, responses: Sequence[int]) -> Work:
    """Sampling responses with a cache: as their log-probabilities, but for the last tokens.

    The last token of each response is never fed back.
    """
    fed = [length - 1 for length in responses]
    work = group_work(prompt, fed, shared_prompt=True)
    return Work(tokens=work.tokens, pairs=work.pairs, predictions=sum(responses))


def forward_flops(spec: ModelSpec, work: Work) -> float:
    """FLOPs of a forward pass of the whole model."""
    attended = spec.num_heads * spec.head_dim
    per_pair = 4 * attended * spec.num_layers  # scores, and the weighted sum of values
    per_token = 2 * sum(layer_weights(spec, layer) for layer in range(spec.num_layers))
    per_prediction = 2 * spec.hidden_size * spec.vocab_size
    return float(
        per_token * work.tokens + per_pair * work.pairs + per_prediction * work.predictions
    )


def with_value_head(spec: ModelSpec) -> ModelSpec:
    """A critic's model for counting: one number is read from a hidden state, not a vocabulary."""
    return replace(spec, vocab_size=1)


def causal_pairs(length: int, *, before: int = 0) -> int:
    """Pairs of a query and a key that it sees, of tokens that also see all those before them."""
    return length * before + length * (length + 1) // 2


def layer_weights(spec: ModelSpec, layer: int = 0) -> int:
    """Entries of one layer's weight matrices that a token is multiplied with.

    Of a layer with experts: the router's and those of the experts that a token is sent to.

    Args:
        spec: The model.
        layer: Which layer, from 0; tells apart those with and without experts.
    """
    query_and_output = 2 * spec.hidden_size * spec.num_heads * spec.head_dim
    key_and_value = 2 * spec.hidden_size * spec.num_kv_heads * spec.head_dim
    return query_and_output + key_and_value + _mlp_weights(spec, layer)


def _mlp_weights(spec: ModelSpec, layer: int) -> int:
    if spec.experts is None or not spec.has_experts(layer):
        return 3 * spec.hidden_size * spec.intermediate_size  # gate, up and down
    router = spec.hidden_size * spec.experts.num_experts
    gate_up_down = 3 * spec.hidden_size * spec.experts.intermediate_size
    return router + spec.experts.num_per_token * gate_up_down
