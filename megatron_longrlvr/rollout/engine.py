"""What every rollout engine offers: prompts in, samples out.

An engine knows prompts, samples and a policy version; it knows nothing of rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from megatron_longrlvr.stages import PolicyVersion, PromptBatch, RolloutBatch, Sample

OnSample = Callable[[Sample], None]
"""Called with each sample as soon as it is finished, in any order; must return at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How responses are drawn."""

    max_response_tokens: int
    temperature: float
    """0 takes the likeliest token."""

    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""

    seed: int
    """With the step, the prompt's id and the place in the group it fixes a sample's random
    numbers, whatever else is sampled beside it."""

    returns_experts: bool = False
    """Whether samples tell which experts their tokens went to, for a mixture."""


class RolloutEngine(Protocol):
    """Samples responses from the current policy."""

    def generate(
        self, prompts: PromptBatch, params: SamplingParams, *, on_sample: OnSample | None = None
    ) -> RolloutBatch:
        """Sample each prompt ``prompts.group_size`` times, in group order."""
        ...


class PendingRollouts(Protocol):
    """Samples that an engine is writing."""

    def finish(self, *, on_sample: OnSample | None = None) -> RolloutBatch:
        """Wait for all of them; every rank of the run calls this alike, once."""
        ...


@dataclass(frozen=True, slots=True)
class FinishedRollouts:
    """Satisfies ``PendingRollouts`` with samples that are there."""

    rollouts: RolloutBatch

    def finish(self, *, on_sample: OnSample | None = None) -> RolloutBatch:
        """The samples, each shown to ``on_sample`` first."""
        if on_sample is not None:
            for sample in self.rollouts.samples:
                on_sample(sample)
        return self.rollouts


@runtime_checkable
class AheadEngine(RolloutEngine, Protocol):
    """An engine that writes samples while the learner trains, and while it is published to."""

    def begin(self, prompts: PromptBatch, params: SamplingParams) -> PendingRollouts:
        """Start to sample each prompt ``prompts.group_size`` times, and return at once."""
        ...


class WeightPublisher(Protocol):
    """Moves the learner's weights into the rollout engine."""

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Return once the engine samples from these weights, with what it took by metric name."""
        ...


class OwnEngine(RolloutEngine, WeightPublisher, Protocol):
    """An engine that the run has built and keeps at the learner's weights."""

    def close(self) -> None:
        """Let go of what it holds; it samples no more."""
        ...
