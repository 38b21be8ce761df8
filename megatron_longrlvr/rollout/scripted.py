"""An engine that answers from a script: how the loop, rewards and losses are tested.

It returns lengths, aborts and policy versions on demand, so whatever a real engine may do on a
bad day can be shown to the rest of the system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.rollout.engine import (
    FinishedRollouts,
    OnSample,
    PendingRollouts,
    SamplingParams,
)
from megatron_longrlvr.stages import (
    FinishReason,
    PolicyVersion,
    Prompt,
    PromptBatch,
    RolloutBatch,
    Sample,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScriptedResponse:
    """What the engine pretends that the policy wrote."""

    text: str
    finish_reason: FinishReason = FinishReason.STOP
    logprob: float = -1.0
    """Reported for every token."""


Script = Callable[[int, Prompt, int], ScriptedResponse]
"""(step, prompt, place in the group) -> response."""


class ScriptedEngine:
    """Satisfies ``AheadEngine`` and ``WeightPublisher`` without a model."""

    def __init__(self, script: Script, tokenizer: Tokenizer) -> None:
        self._script = script
        self._tokenizer = tokenizer
        self.version = PolicyVersion(0)

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Label the samples that follow with this version."""
        self.version = version
        return {}

    def generate(
        self, prompts: PromptBatch, params: SamplingParams, *, on_sample: OnSample | None = None
    ) -> RolloutBatch:
        """Answer every prompt from the script, cut at ``params.max_response_tokens``."""
        samples: list[Sample] = []
        for prompt in prompts.prompts:
            for index in range(prompts.group_size):
                samples.append(self._sample(prompts.step, prompt, index, params))
                if on_sample is not None:
                    on_sample(samples[-1])
        return RolloutBatch(step=prompts.step, group_size=prompts.group_size, samples=samples)

    def close(self) -> None:
        """Nothing to let go of."""

    def begin(self, prompts: PromptBatch, params: SamplingParams) -> PendingRollouts:
        """Answer with the version of this moment; see ``AheadEngine``."""
        return FinishedRollouts(self.generate(prompts, params))

    def _sample(self, step: int, prompt: Prompt, index: int, params: SamplingParams) -> Sample:
        response = self._script(step, prompt, index)
        token_ids = self._tokenizer.encode(response.text)
        if response.finish_reason is FinishReason.STOP:
            token_ids.append(min(self._tokenizer.stop_ids))
        reason = response.finish_reason
        if len(token_ids) > params.max_response_tokens:
            token_ids, reason = token_ids[: params.max_response_tokens], FinishReason.LENGTH
        return Sample(
            prompt=prompt,
            sample_index=index,
            token_ids=tuple(token_ids),
            text=self._tokenizer.decode(token_ids),
            behavior_logprobs=(response.logprob,) * len(token_ids),
            finish_reason=reason,
            policy_version=self.version,
        )
