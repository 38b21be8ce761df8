"""A policy on this rank: a network that reads log-probabilities.

Shapes: T tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from megatron_longrlvr.checkpoint.weights import (
    WEIGHTS_DIRECTORY,
    holds_torch_dist,
    read_weights,
)
from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.model.build import build_chunks
from megatron_longrlvr.model.hf_weights import load_hf_weights
from megatron_longrlvr.model.local_batch import LocalBatch
from megatron_longrlvr.model.network import Network
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.schedule import LogprobSettings, chunk_logprobs
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import MicroBatch


class Policy(Network):
    """Model chunks of this rank with the output layer of a language model."""

    def settings(self, temperature: float) -> LogprobSettings:
        return LogprobSettings(
            vocab_size=self.spec.vocab_size,
            temperature=temperature,
            chunk_tokens=self.model.logprob_chunk_tokens,
        )

    def logprobs(self, micro_batches: Sequence[MicroBatch], *, temperature: float) -> list[Tensor]:
        """Log-probabilities of response tokens, without gradient.

        Returns:
            One [T] float32 tensor per micro-batch, 0 outside responses, on every rank.
        """
        settings = self.settings(temperature)

        def readout(chunk: PolicyModel, hidden: Tensor, batch: LocalBatch) -> Tensor:
            logprobs, _ = chunk_logprobs(chunk, hidden, batch.target_ids, settings)
            return logprobs

        return self.read(micro_batches, readout)


def load_policy(folder: Path, spec: ModelSpec, groups: ProcessGroups, model: ModelConfig) -> Policy:
    """Build a policy and fill it from a Hugging Face folder, or one converted to torch_dist.

    Collective.
    """
    chunks = build_chunks(spec, groups, model)
    if holds_torch_dist(folder):
        read_weights(folder / WEIGHTS_DIRECTORY, chunks, groups)
    else:
        place = {"tp_rank": groups.tp_rank, "tp_size": groups.layout.tp}
        load_hf_weights(chunks, folder, spec, **place)
    return Policy(spec=spec, groups=groups, model=model, chunks=chunks)
