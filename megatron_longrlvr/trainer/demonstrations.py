"""What a supervised run imitates: worked answers to prompts of the toy task, or of data files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from megatron_longrlvr.algorithms.packing import Peers, pack
from megatron_longrlvr.config.sft import DemonstrationKind, SftRunConfig
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.data.dataset import load_prompts
from megatron_longrlvr.data.response_format import render_response
from megatron_longrlvr.data.sources import FilePromptSource
from megatron_longrlvr.data.tokenizer import Tokenizer
from megatron_longrlvr.data.toy_source import ToyPromptSource
from megatron_longrlvr.data.toy_task import ToyTask
from megatron_longrlvr.stages import (
    AdvantageBatch,
    FinishReason,
    PackedBatch,
    PolicyVersion,
    Prompt,
    Sample,
    ScoredSample,
)


class DemonstrationSource(Protocol):
    """Deals prompts with a response to each."""

    def draw(self, count: int) -> list[tuple[Prompt, str]]:
        """The next demonstrations, those of all data-parallel ranks together."""
        ...


class ToyDemonstrations:
    """Demonstrations of the toy task, right as often as the recipe says."""

    def __init__(self, kind: DemonstrationKind, tokenizer: Tokenizer) -> None:
        assert kind.task is not None, "the schema asks for one of the two"
        self._task = ToyTask(kind.task)
        self._source = ToyPromptSource(kind.task, tokenizer)
        self._accuracy = kind.citation_accuracy

    def draw(self, count: int) -> list[tuple[Prompt, str]]:
        start = self._source.state()
        return [
            (prompt, self._task.demonstration(start + place, citation_accuracy=self._accuracy))
            for place, prompt in enumerate(self._source.draw(count))
        ]


class FileDemonstrations:
    """Questions of data files, each answered with its evidence and first reference answer."""

    def __init__(
        self, kind: DemonstrationKind, tokenizer: Tokenizer, *, max_prompt_tokens: int, seed: int
    ) -> None:
        loaded = load_prompts(
            [Path(path) for path in kind.paths],
            tokenizer=tokenizer,
            max_prompt_tokens=max_prompt_tokens,
            overlong="refuse",
        )
        self._source = FilePromptSource(loaded.prompts, seed=seed)

    def draw(self, count: int) -> list[tuple[Prompt, str]]:
        return [
            (
                prompt,
                render_response(
                    cited_chunk_ids=sorted(prompt.evidence_chunk_ids),
                    answer=prompt.reference_answers[0],
                ),
            )
            for prompt in self._source.draw(count)
        ]


@dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Deals batches of demonstrations, stage after stage."""

    config: SftRunConfig
    tokenizer: Tokenizer
    peers: Peers
    num_ranks: int
    """Data-parallel."""

    @property
    def num_steps(self) -> int:
        return sum(stage.steps for stage in self.config.demonstrations.stages)

    def batches(self) -> Iterator[PackedBatch]:
        """This data-parallel rank's share of each step's batch.

        Raises:
            DataError: A record of a data file cannot be used; names file and record.
        """
        step = 0
        for stage in self.config.demonstrations.stages:
            sources = [self._open(kind) for kind in stage.kinds]
            for turn in range(stage.steps):
                step += 1
                drawn = sources[turn % len(sources)].draw(self.config.demonstrations.batch_size)
                yield self._pack(step, drawn[self.peers.rank :: self.num_ranks])

    def _open(self, kind: DemonstrationKind) -> DemonstrationSource:
        if kind.task is not None:
            return ToyDemonstrations(kind, self.tokenizer)
        budget = self.config.demonstrations.micro_batch_tokens
        seed = self.config.run.seed
        return FileDemonstrations(kind, self.tokenizer, max_prompt_tokens=budget, seed=seed)

    def _pack(self, step: int, drawn: list[tuple[Prompt, str]]) -> PackedBatch:
        scored = [self._as_scored(prompt, text) for prompt, text in drawn]
        batch = AdvantageBatch(
            step=step,
            scored=scored,
            advantages=[[0.0] * len(one.sample.token_ids) for one in scored],
            num_groups=len(drawn),
            num_dropped_groups=0,
        )
        (packed,) = pack(
            batch,
            config=AlgorithmConfig(
                micro_batch_tokens=self.config.demonstrations.micro_batch_tokens
            ),
            max_response_tokens=self.config.max_response_tokens,
            peers=self.peers,
        )
        return packed

    def _as_scored(self, prompt: Prompt, text: str) -> ScoredSample:
        token_ids = (*self.tokenizer.encode(text), min(self.tokenizer.stop_ids))
        sample = Sample(
            prompt=prompt,
            sample_index=0,
            token_ids=token_ids,
            text=text,
            behavior_logprobs=(0.0,) * len(token_ids),
            finish_reason=FinishReason.STOP,
            policy_version=PolicyVersion(0),
        )
        return ScoredSample.without_reward(sample)
