"""How tokens fall on the experts of a model, over all ranks: counted, and brought to its routers.

Shapes: M layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.model.network import Network
from megatron_longrlvr.model.routing import RouterCharge, RouterTally, routers_by_layer
from megatron_longrlvr.parallel.device import device


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertLoad:
    """Sums over the tokens of all ranks, in the layers that have experts."""

    tokens: Tensor
    """[M, E] float64 tokens that each expert got; a row of 0 in a layer without experts."""

    probabilities: Tensor
    """[M, E] float64 softmax of the router's logits."""

    squared_norms: Tensor
    """[M] float64 squares of the logarithm of the softmax's denominator."""

    replayed: Tensor
    """[M, 2] float64: choices that were replayed, and those that the router would not have made."""

    def shares(self) -> Tensor:
        """[M, E] float32 share of the tokens of its layer that each expert got."""
        return (self.tokens / self.tokens.sum(dim=1, keepdim=True).clamp(min=1)).float()

    def metrics(self) -> dict[str, float]:
        """Balance of the layers, by name; empty where no token was counted.

        The losses are those of ``routing.py`` without their coefficients.
        """
        is_mixture = self.tokens.sum(dim=1) > 0
        if not is_mixture.any():
            return {}
        tokens = self.tokens[is_mixture]
        probabilities = self.probabilities[is_mixture]
        num_tokens = probabilities.sum(dim=1)
        shares = tokens / tokens.sum(dim=1, keepdim=True)
        peaks = shares.amax(dim=1) * shares.size(1)
        balance = (shares * probabilities).sum(dim=1) / num_tokens * shares.size(1)
        found = {
            "expert_load_peak_mean": peaks.mean(),
            "expert_load_peak_max": peaks.max(),
            "expert_idle_frac": (tokens == 0).double().mean(),
            "router_balance_loss": balance.mean(),
            "router_z_loss": (self.squared_norms[is_mixture] / num_tokens).mean(),
        }
        replayed, differing = self.replayed.sum(dim=0)
        if replayed > 0:
            found["router_replay_changed_frac"] = differing / replayed
        return {name: float(value) for name, value in found.items()}


class LoadCounter:
    """Counts how the tokens of a network's passes fall on its experts, while it is entered."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._routers = routers_by_layer(network.chunks)
        self._tallies: dict[int, RouterTally] = {}

    def __enter__(self) -> LoadCounter:
        for layer, router in self._routers.items():
            router.tally = RouterTally.start(router.num_experts, device())
            self._tallies[layer] = router.tally
        return self

    def __exit__(self, *_exception: object) -> None:
        for router in self._routers.values():
            router.tally = None

    def total(self) -> ExpertLoad:
        """Over all ranks, each of which has had tokens or layers of its own; every rank calls."""
        spec = self._network.spec
        assert spec.experts is not None, "only a mixture has a load to count"
        num_experts = spec.experts.num_experts
        sums = torch.zeros(
            spec.num_layers, 2 * num_experts + 3, dtype=torch.float64, device=device()
        )
        for layer, tally in self._tallies.items():
            sums[layer] = tally.to_vector()
        dist.all_reduce(sums, group=self._network.groups.world)
        return ExpertLoad(
            tokens=sums[:, :num_experts],
            probabilities=sums[:, num_experts : 2 * num_experts],
            squared_norms=sums[:, 2 * num_experts],
            replayed=sums[:, 2 * num_experts + 1 :],
        )


@contextmanager
def charging(network: Network, load: Tensor | None, *, num_global_tokens: int) -> Iterator[None]:
    """Let the routers charge their losses for the passes inside.

    Args:
        network: Whose routers.
        load: [M, E] share of the step's tokens that each expert gets; None charges nothing.
        num_global_tokens: Of the step.
    """
    routers = {} if load is None else routers_by_layer(network.chunks)
    for layer, router in routers.items():
        assert load is not None, "there are routers only with a load"
        router.charge = RouterCharge(load=load[layer], num_global_tokens=num_global_tokens)
    try:
        yield
    finally:
        for router in routers.values():
            router.charge = None
