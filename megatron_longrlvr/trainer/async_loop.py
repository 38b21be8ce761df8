"""Sampling ahead of the learner, by a bounded number of training steps.

While the learner trains on step s, the engine writes the samples of steps s+1 to s+k. A sample is
at most k training steps old when it is learned from; with k = 0 nothing runs ahead. What the age
does to the loss is made up for there: the ratio is taken against the learner's own
log-probabilities at the start of the step, and each token is weighted by their distance from those
that it was sampled with.

A checkpoint holds the samples of the steps that were under way, since the weights that wrote them
are gone by then: saving waits until they are written, as the next step would with k = 1. A resumed
run learns from the very same, so it is the run that was not stopped. In another layout it samples
their prompts again from the newest weights: none is lost and none is learned from twice.

Paper: AReaL, arXiv:2505.24298 (bounded staleness, decoupled objective).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_longrlvr.checkpoint.rollouts import StoredRollouts
from megatron_longrlvr.rollout.engine import (
    AheadEngine,
    FinishedRollouts,
    OnSample,
    PendingRollouts,
    SamplingParams,
)
from megatron_longrlvr.stages import RolloutBatch
from megatron_longrlvr.trainer.sampling import PromptDraw


@dataclass(frozen=True, kw_only=True, slots=True)
class _UnderWay:
    """A step that the engine is sampling."""

    step: int
    pending: PendingRollouts
    cursor: int
    """Prompts dealt to this step and those before it."""


class SamplesAhead:
    """Satisfies ``Sampler``; asked for one step after the other, each once."""

    def __init__(
        self,
        prompts: PromptDraw,
        engine: AheadEngine,
        params: SamplingParams,
        *,
        max_staleness: int,
        last_step: int,
    ) -> None:
        """Begin nothing yet.

        Args:
            prompts: Where they come from.
            engine: Writes several steps' samples at the same time.
            params: How they are drawn.
            max_staleness: Training steps to run ahead, k.
            last_step: Of the run; nothing is sampled beyond.
        """
        self._prompts = prompts
        self._engine = engine
        self._params = params
        self._max_staleness = max_staleness
        self._last_step = last_step
        self._under_way: deque[_UnderWay] = deque()
        self._cursor = prompts.source.state()

    def sample(self, step: int, *, on_sample: OnSample) -> RolloutBatch:
        next_step = self._under_way[-1].step + 1 if self._under_way else step
        for ahead in range(next_step, min(step + self._max_staleness, self._last_step) + 1):
            self._begin(ahead)
        due = self._under_way.popleft()
        assert due.step == step, f"step {step} was asked for when step {due.step} is due"
        rollouts = due.pending.finish(on_sample=on_sample)
        self._cursor = due.cursor
        return rollouts

    def cursor(self) -> int:
        return self._cursor

    def unused(self) -> Sequence[RolloutBatch]:
        batches = [one.pending.finish() for one in self._under_way]
        self._under_way = deque(
            replace(one, pending=FinishedRollouts(batch))
            for one, batch in zip(self._under_way, batches, strict=True)
        )
        return batches

    def take_up(self, stored: Sequence[StoredRollouts]) -> None:
        assert not self._under_way, "called before the first step"
        for rollouts in stored[: self._max_staleness]:
            batch = rollouts.of(self._prompts.draw(rollouts.step))
            self._under_way.append(
                _UnderWay(
                    step=rollouts.step,
                    pending=FinishedRollouts(batch),
                    cursor=self._prompts.source.state(),
                )
            )

    def _begin(self, step: int) -> None:
        batch = self._prompts.draw(step)
        cursor = self._prompts.source.state()
        pending = self._engine.begin(batch, self._params)
        self._under_way.append(_UnderWay(step=step, pending=pending, cursor=cursor))
