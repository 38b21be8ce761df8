"""Run micro-batches through the pipeline with megatron-core's schedules.

The caller supplies what is made of the last chunk's hidden states: a loss, and sums worth
reporting. For a policy that is an objective, from the log-probabilities and entropies of a
micro-batch's response tokens. It is called on the last pipeline stage alone, once per micro-batch
and context-parallel rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.local_batch import LocalBatch
from megatron_longrlvr.model.logprobs import token_logprobs
from megatron_longrlvr.model.mcore import get_forward_backward_func
from megatron_longrlvr.model.policy_model import PolicyModel, unwrap

Ending = Callable[[int, LocalBatch, PolicyModel, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(index of the micro-batch, its local share, last chunk, its hidden states [N, H]) -> (loss,
named results)."""

Objective = Callable[[int, LocalBatch, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(index of the micro-batch, its local share, log-probabilities [N], entropies [N]) -> (loss,
named results)."""


@dataclass(frozen=True, kw_only=True)
class LogprobSettings:
    """How logits become log-probabilities."""

    vocab_size: int
    temperature: float
    chunk_tokens: int


def run_micro_batches(
    chunks: Sequence[torch.nn.Module],
    batches: Sequence[LocalBatch],
    objective: Objective,
    *,
    settings: LogprobSettings,
    forward_only: bool,
) -> list[dict[str, Tensor]]:
    """As :func:`run_pipeline`, to an objective over log-probabilities and entropies."""

    def ending(
        index: int, batch: LocalBatch, chunk: PolicyModel, hidden: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logprobs, entropy = chunk_logprobs(chunk, hidden, batch.target_ids, settings)
        return objective(index, batch, logprobs, entropy)

    return run_pipeline(chunks, batches, ending, forward_only=forward_only)


def run_pipeline(
    chunks: Sequence[torch.nn.Module],
    batches: Sequence[LocalBatch],
    ending: Ending,
    *,
    forward_only: bool,
) -> list[dict[str, Tensor]]:
    """Forward, and backward unless ``forward_only``, over all micro-batches.

    All ranks of a pipeline must call this with the same number of micro-batches.

    Returns:
        The ending's named results, one per micro-batch, on the last pipeline stage; an empty
        list elsewhere.
    """
    iterators = [iter(enumerate(batches)) for _ in chunks]
    is_single = len(chunks) == 1
    results = get_forward_backward_func()(
        forward_step_func=partial(_forward_step, ending=ending),
        data_iterator=iterators[0] if is_single else iterators,
        model=chunks[0] if is_single else list(chunks),
        num_microbatches=len(batches),
        seq_length=1,  # stages exchange shapes (variable_seq_lengths), so this is not read
        micro_batch_size=1,
        forward_only=forward_only,
    )
    _forget_dispatched_tokens(chunks)
    return list(results)


def _forget_dispatched_tokens(chunks: Sequence[torch.nn.Module]) -> None:
    # Through their autograd graph, the router's probabilities that a dispatcher keeps hold the
    # model in a cycle that Python cannot see: it would never be freed, nor its groups' threads.
    for chunk in chunks:
        for module in chunk.modules():
            dispatcher: Any = getattr(module, "token_dispatcher", None)
            if dispatcher is not None:
                dispatcher.probs = None


def _forward_step(
    batches: Iterator[tuple[int, LocalBatch]],
    chunk: torch.nn.Module,
    *,
    ending: Ending,
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]]:
    index, batch = next(batches)
    hidden = chunk(batch.token_ids, batch.attention, batch.selected)

    def loss_of(hidden: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        loss, results = ending(index, batch, unwrap(chunk), hidden)
        # megatron-core divides by this count only where we do not ask it to sum.
        return loss, torch.zeros((), dtype=torch.int, device=loss.device), results

    return hidden, loss_of


def chunk_logprobs(
    chunk: PolicyModel, hidden: Tensor, target_ids: Tensor, settings: LogprobSettings
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [N] of targets, from the last chunk's hidden states."""
    weight, shard = chunk.output_shard(settings.vocab_size)
    return token_logprobs(
        hidden,
        weight,
        target_ids,
        shard=shard,
        temperature=settings.temperature,
        chunk_tokens=settings.chunk_tokens,
    )
