"""Which experts a token goes to: chosen by the router or replayed, counted, and charged for.

Replay sends a token to the experts that the rollout engine chose and weighs them by the learner's
own router, whose gradient stays as it is. Paper: Stabilizing MoE Reinforcement Learning by Aligning
Training and Inference Routers (R3), arXiv:2510.11370.

Two losses may be charged in every layer with experts, over all tokens of an optimizer step:

    balance   E * sum_e f_e P_e             Switch Transformers, arXiv:2101.03961
    z         mean (log sum_e exp x_e)^2    ST-MoE, arXiv:2202.08906

with the router's logits x, f_e the share of the tokens that expert e gets, 1 for all together, and
P_e the mean of its softmax. megatron-core computes both within a micro-batch, and multiplies them
by its tokens where losses are summed as here. Ours are of the step: f is counted before, in a pass
without gradient, so that what remains is a sum over tokens and depends neither on micro-batches nor
on ranks. A prompt that stands once for several samples counts once for each, as in the rest of the
loss; padding does not count.

Shapes: L tokens of a micro-batch on this context-parallel rank, of which a tensor-parallel rank
routes N, one part of the sequence under sequence parallelism; M layers, E experts, K of them chosen
for a token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.mcore import (
    MoEAuxLossAutoScaler,
    TopKRouter,
    TransformerConfig,
    TransformerLayer,
)
from megatron_longrlvr.parallel.layout import ParallelLayout
from megatron_longrlvr.stages import MicroBatch, Segment


@dataclass(frozen=True, kw_only=True)
class TokenRouting:
    """What the routers of all layers are told about the tokens of a forward pass."""

    weights: Tensor | None = None
    """[N] float32: samples that a token stands for, 0 at padding. None where tokens are neither
    counted nor charged."""

    replayed: Tensor | None = None
    """[M, N, K] int16 on the host: experts to send each token to; -1 leaves it to the router."""

    recorded: dict[int, Tensor] | None = None
    """Filled by the pass, where given: [N, K] int64 experts by layer, from 0."""


@dataclass(frozen=True, kw_only=True)
class RouterCharge:
    """What a layer's router needs to know of the whole step to charge its losses."""

    load: Tensor
    """[E] float32 share of the tokens that each expert gets."""

    num_global_tokens: int


@dataclass(kw_only=True)
class RouterTally:
    """Sums over the tokens that a layer's router has seen."""

    load: Tensor
    """[E] float64 tokens that each expert got."""

    probabilities: Tensor
    """[E] float64 softmax of the logits."""

    squared_norms: Tensor
    """[] float64 squares of the logarithm of the softmax's denominator."""

    replayed: Tensor
    """[2] float64: choices that were replayed, and those of them that the router would not have
    made."""

    @staticmethod
    def start(num_experts: int, device: torch.device) -> RouterTally:
        """Nothing counted yet."""
        sizes = [(num_experts,), (num_experts,), (), (2,)]
        load, probabilities, squared, replayed = (
            torch.zeros(size, dtype=torch.float64, device=device) for size in sizes
        )
        return RouterTally(
            load=load, probabilities=probabilities, squared_norms=squared, replayed=replayed
        )

    def to_vector(self) -> Tensor:
        """[2 E + 3] float64, to be summed over ranks."""
        parts = (self.load, self.probabilities, self.squared_norms[None], self.replayed)
        return torch.cat(parts)


@dataclass(kw_only=True)
class _Choice:
    """Stands in for megatron-core's ``RouterReplay``: asked for the K best experts of each token.

    Not a module, so that the router may hold it.
    """

    layer_number: int | None = None  # set by megatron-core from 0.19 on
    tokens: TokenRouting = field(default_factory=TokenRouting)
    tally: RouterTally | None = None

    def get_replay_topk(
        self,
        scores: Tensor,
        topk: int,
        num_groups: int | None = None,
        group_topk: int | None = None,
        default_compute_topk: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[N, K] scores and [N, K] int64 experts; megatron-core calls this with [N, E] scores."""
        assert default_compute_topk is not None, "megatron-core passes its own choice along"
        assert self.layer_number is not None, "a router belongs to a layer"
        values, experts = default_compute_topk(scores, topk, num_groups, group_topk)
        layer = self.layer_number - 1
        if self.tokens.replayed is not None:
            given = self.tokens.replayed[layer].to(scores.device, torch.int64)
            if self.tally is not None:
                self.tally.replayed += _differing(given, experts)
            experts = torch.where(given < 0, experts, given)
            values = scores.gather(1, experts)
        if self.tokens.recorded is not None:
            self.tokens.recorded[layer] = experts
        return values, experts


class PolicyRouter(TopKRouter):  # type: ignore[misc]
    """megatron-core's router with replay, and with losses that are sums over the step."""

    def __init__(self, config: TransformerConfig, **options: Any) -> None:  # noqa: ANN401
        super().__init__(config=config, **options)
        self.router_replay = _Choice()
        self.tally: RouterTally | None = None
        """Counts passes without gradient in evaluation, and those with gradient in training: every
        token once, whether activations are computed again or not."""

        self.charge: RouterCharge | None = None
        """Given while a step's gradients are computed, where a coefficient is above 0."""

    def set_layer_number(self, layer_number: int) -> None:
        super().set_layer_number(layer_number)
        self.router_replay.layer_number = layer_number

    def expect(self, tokens: TokenRouting | None) -> None:
        """Take note of the tokens of the coming forward pass."""
        self.router_replay.tokens = tokens or TokenRouting()

    def apply_z_loss(self, logits: Tensor, padding_mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Charge both losses for [N, E] logits; megatron-core calls this before it chooses."""
        weights = self.router_replay.tokens.weights
        if self.charge is None or weights is None or not torch.is_grad_enabled():
            return logits
        norms, probabilities = _softmax(logits)
        per_token = self.config.moe_z_loss_coeff * norms.square()
        balance = self.config.moe_aux_loss_coeff * self.num_experts
        per_token = per_token + balance * (probabilities @ self.charge.load.to(probabilities.dtype))
        loss = (weights * per_token).sum() / self.charge.num_global_tokens
        return MoEAuxLossAutoScaler.apply(logits, loss)  # type: ignore[no-any-return]

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[N, E] weights and [N, E] bool choices from [N, 1, E] logits."""
        weights = self.router_replay.tokens.weights
        is_counted = weights is not None and self.training == torch.is_grad_enabled()
        tally = self.tally if is_counted else None
        self.router_replay.tally = tally
        probabilities, routing_map = super().routing(logits, padding_mask)
        if tally is not None:
            assert weights is not None, "only weighted tokens are counted"
            self._count(tally, logits.detach().view(-1, self.num_experts), routing_map, weights)
        return probabilities, routing_map

    @torch.no_grad()
    def _count(
        self, tally: RouterTally, logits: Tensor, routing_map: Tensor, weights: Tensor
    ) -> None:
        norms, probabilities = _softmax(logits)
        wide = weights.double()
        tally.load += wide @ routing_map.double()
        tally.probabilities += wide @ probabilities.double()
        tally.squared_norms += wide @ norms.double().square()


class MixtureLayer(TransformerLayer):  # type: ignore[misc]
    """A transformer layer with experts, which tells its router about the tokens of each pass.

    With full recomputation megatron-core runs the layer again, perhaps after other micro-batches,
    and hands it the same plan as before.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        self.mlp.router.expect(kwargs["packed_seq_params"].routing)
        return super().forward(*args, **kwargs)


def routers_by_layer(chunks: Sequence[torch.nn.Module]) -> dict[int, PolicyRouter]:
    """The routers that this rank holds, by layer from 0."""
    return {
        module.layer_number - 1: module
        for chunk in chunks
        for module in chunk.modules()
        if isinstance(module, PolicyRouter)
    }


def route_micro_batch(
    micro_batch: MicroBatch,
    token_index: Tensor,
    *,
    layout: ParallelLayout,
    tp_rank: int,
    is_replayed: bool,
) -> TokenRouting:
    """What routers are told of a micro-batch on one rank.

    Args:
        micro_batch: Of all ranks.
        token_index: [L] int64: which of its tokens a context-parallel rank holds; -1 is padding.
        layout: How tokens are cut.
        tp_rank: This rank's place in its tensor-parallel group.
        is_replayed: Whether tokens go where the engine sent them, as far as that is known.
    """
    if layout.sequence_parallel:
        token_index = token_index.chunk(layout.tp)[tp_rank]
    is_real = token_index >= 0
    source = token_index.clamp(min=0)
    weights = samples_per_token(micro_batch.segments).to(source.device)[source]
    replayed = None
    if is_replayed and micro_batch.experts is not None:
        rows = micro_batch.experts[:, source.cpu()]
        replayed = torch.where(is_real.cpu()[None, :, None], rows, -1)
    return TokenRouting(weights=torch.where(is_real, weights, 0.0), replayed=replayed)


def samples_per_token(segments: Sequence[Segment]) -> Tensor:
    """[T] float32: samples that each token of a packed row belongs to."""
    responses = Counter(segment.continues for segment in segments)
    counts = [max(responses[index], 1) for index in range(len(segments))]
    lengths = torch.tensor([segment.num_tokens for segment in segments])
    return torch.repeat_interleave(torch.tensor(counts, dtype=torch.float32), lengths)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[N] logarithms of the denominator, and [N, E] softmax."""
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    norms = torch.logsumexp(logits, dim=-1)
    return norms, (logits - norms[:, None]).exp()


def _differing(given: Tensor, own: Tensor) -> Tensor:
    """[2] float64: replayed choices, and those that are not among the router's own; [N, K] each."""
    is_given = given >= 0
    is_own = (given[:, :, None] == own[:, None, :]).any(dim=2)
    return torch.stack([is_given.sum(), (is_given & ~is_own).sum()]).double()
