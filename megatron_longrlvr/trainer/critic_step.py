"""What a critic makes of a step before it learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megatron_longrlvr.algorithms.packing import Peers
from megatron_longrlvr.algorithms.valuation import Valuation, evaluate_tokens, whiten_tokens
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.model.critic import Critic
from megatron_longrlvr.stages import TrainBatch


def consult(
    critic: Critic, batches: Sequence[TrainBatch], algorithm: AlgorithmConfig, peers: Peers
) -> Valuation:
    """Give a step's batches the critic's advantages; every rank calls this.

    The critic stays on the device, for its updates follow.
    """
    critic.arrive()
    values = [critic.values(batch.packed.micro_batches) for batch in batches]
    valuation = evaluate_tokens(batches, values, critic=critic.config, kl=algorithm.kl, peers=peers)
    if not algorithm.whiten_advantages:
        return valuation
    return replace(valuation, batches=whiten_tokens(valuation.batches, peers))
