"""From a step to the samples of this rank's share of its prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from megatron_longrlvr.checkpoint.rollouts import StoredRollouts
from megatron_longrlvr.config.training import RolloutConfig
from megatron_longrlvr.data.sources import PromptSource
from megatron_longrlvr.rollout.engine import OnSample, RolloutEngine, SamplingParams
from megatron_longrlvr.stages import PromptBatch, RolloutBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class DataShare:
    """This data-parallel rank's part of the prompts."""

    rank: int
    size: int
    all_agree: Callable[[bool], bool]
    """Whether a flag is True on every data-parallel rank; all of them call it."""


class Sampler(Protocol):
    """Gives the samples of a step."""

    def sample(self, step: int, *, on_sample: OnSample) -> RolloutBatch:
        """Sample prompts that no step has had; every rank calls this alike."""
        ...

    def cursor(self) -> int:
        """Prompts dealt to the steps that have been sampled: where a resumed run goes on."""
        ...

    def unused(self) -> Sequence[RolloutBatch]:
        """Samples of the steps to come, waited for where they are being written.

        They are kept as well. Every rank calls this alike.
        """
        ...

    def take_up(self, stored: Sequence[StoredRollouts]) -> None:
        """Go on with samples that an earlier start left unused; called before the first step."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptDraw:
    """Deals every rank its share of a step's prompts."""

    source: PromptSource
    rollout: RolloutConfig
    share: DataShare

    def draw(self, step: int) -> PromptBatch:
        """The next prompts, as those of ``step``."""
        drawn = self.source.draw(self.rollout.prompts_per_step)
        return PromptBatch(
            step=step,
            prompts=drawn[self.share.rank :: self.share.size],
            group_size=self.rollout.group_size,
        )


@dataclass(frozen=True, kw_only=True)
class SamplesOnDemand:
    """Draws a step's prompts when they are asked for and waits for the engine."""

    prompts: PromptDraw
    engine: RolloutEngine
    params: SamplingParams

    def sample(self, step: int, *, on_sample: OnSample) -> RolloutBatch:
        return self.engine.generate(self.prompts.draw(step), self.params, on_sample=on_sample)

    def cursor(self) -> int:
        return self.prompts.source.state()

    def unused(self) -> Sequence[RolloutBatch]:
        return ()

    def take_up(self, stored: Sequence[StoredRollouts]) -> None:
        """Samples from older weights are not learned from here: their prompts are drawn again."""
