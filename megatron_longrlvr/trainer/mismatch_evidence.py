"""Asks engine and learner about sampled tokens again, once they are found to disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from megatron_longrlvr.algorithms.mismatch_cause import Finding, SampleEvidence, find_cause
from megatron_longrlvr.algorithms.rows import experts_of, unlearned_row
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.stages import MicroBatch, Sample

# Temperatures that are tried, besides the run's own.
_TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5)
_MAX_SAMPLES = 8


@runtime_checkable
class Witness(Protocol):
    """An engine with weights of its own that can be asked about them."""

    @property
    def can_testify(self) -> bool:
        """Whether it still has the weights that it sampled from."""
        ...

    def differing_tensors(self) -> Sequence[str]:
        """Tensors that differ from the learner's present ones; every rank calls this."""
        ...

    def score_afresh(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first, at temperature 1, from an empty cache."""
        ...


def examine(
    policy: Policy, witness: Witness, samples: Sequence[Sample], *, temperature: float
) -> Finding:
    """Find out why the log-probabilities of these samples differ; every rank calls this.

    Args:
        policy: As it was when the engine was last published to.
        witness: The engine.
        samples: At least one on every rank, written since.
        temperature: Under which they were meant to be.
    """
    chosen = samples[:_MAX_SAMPLES]
    sequences = [[*sample.prompt.token_ids, *sample.token_ids] for sample in chosen]
    rows = [_row(sequence, sample) for sequence, sample in zip(sequences, chosen, strict=True)]
    afresh = witness.score_afresh(sequences)
    learned = {
        value: policy.logprobs(rows, temperature=value)
        for value in sorted({temperature, *_TEMPERATURES})
    }
    evidence = [
        SampleEvidence(
            behavior=torch.tensor(sample.behavior_logprobs),
            learned={
                value: logprobs[place][len(sample.prompt.token_ids) :].cpu()
                for value, logprobs in learned.items()
            },
            engine_afresh=torch.tensor(afresh[place]),
            learner_afresh=_known(learned[1.0][place], afresh[place]),
        )
        for place, sample in enumerate(chosen)
    ]
    return find_cause(
        evidence, temperature=temperature, differing_tensors=witness.differing_tensors()
    )


def _known(logprobs: Tensor, afresh: Sequence[float]) -> Tensor:
    """Those of the tokens that the engine has scored; it may leave out the last one."""
    return logprobs[1 : 1 + len(afresh)].cpu()


def _row(sequence: Sequence[int], sample: Sample) -> MicroBatch:
    """The sample alone, with everything behind its first token to be scored."""
    name = f"{sample.prompt.prompt_id}/{sample.sample_index}"
    row = unlearned_row(sequence, num_given=1, sample_ids=(name,))
    return replace(row, experts=experts_of(sample))
