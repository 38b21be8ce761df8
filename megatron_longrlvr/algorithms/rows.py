"""One packed row: the tokens of several samples, and what the loss needs to know about each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from megatron_longrlvr.stages import MicroBatch, Sample, Segment


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A sample, what it earned and what its tokens are credited with."""

    sample: Sample
    reward: float
    advantages: Sequence[float]
    """One per token of the response."""

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.sample.prompt.token_ids)

    @property
    def num_response_tokens(self) -> int:
        return len(self.sample.token_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Samples of one prompt that are packed with it standing once."""

    items: list[Item]

    @property
    def num_prompt_tokens(self) -> int:
        return self.items[0].num_prompt_tokens

    @property
    def num_tokens(self) -> int:
        return self.num_prompt_tokens + sum(item.num_response_tokens for item in self.items)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    segments: list[Segment] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    is_response: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    behavior_logprobs: list[float] = field(default_factory=list)
    loss_weights: list[float] = field(default_factory=list)
    experts: list[NDArray[np.int16]] = field(default_factory=list)
    """Runs of tokens, [tokens, layers, experts per token]."""

    def add_prompt(self, sample: Sample) -> None:
        token_ids = sample.prompt.token_ids
        nothing = [0.0] * len(token_ids)
        self.token_ids.extend(token_ids)
        self.is_response.extend([False] * len(token_ids))
        for values in (self.rewards, self.advantages, self.behavior_logprobs, self.loss_weights):
            values.extend(nothing)
        if sample.experts is not None:
            self.experts.append(sample.experts.prompt.astype(np.int16))

    def add_response(self, item: Item, weight: float) -> None:
        count = item.num_response_tokens
        for values in (item.sample.behavior_logprobs, item.advantages):
            assert len(values) == count, "one value per response token"
        self.token_ids.extend(item.sample.token_ids)
        self.is_response.extend([True] * count)
        self.rewards.extend([*[0.0] * (count - 1), item.reward])
        self.advantages.extend(item.advantages)
        self.behavior_logprobs.extend(item.sample.behavior_logprobs)
        self.loss_weights.extend([weight] * count)
        if item.sample.experts is not None:
            known = item.sample.experts.response.astype(np.int16)
            self.experts.extend([known, np.full((1, *known.shape[1:]), -1, dtype=np.int16)])

    def stacked_experts(self) -> torch.Tensor | None:
        """[layers, T, experts per token] int16; None where no sample brings its choices."""
        if not self.experts:
            return None
        joined = np.concatenate(self.experts)
        assert len(joined) == len(self.token_ids), "all samples bring the experts of all tokens"
        return torch.from_numpy(joined).transpose(0, 1).contiguous()


def micro_batch(runs: Sequence[Run], *, weight: Callable[[Item], float]) -> MicroBatch:
    """Pack runs one after the other.

    A run of one sample is one segment; a run of several is a segment for the prompt, and one for
    each response that continues it.

    Args:
        runs: At least one.
        weight: Loss weight of each response token of a sample.
    """
    row = _Row()
    for run in runs:
        row.add_prompt(run.items[0].sample)
        if len(run.items) == 1:
            row.segments.append(Segment(num_tokens=run.num_tokens))
        else:
            prompt = len(row.segments)
            row.segments.append(Segment(num_tokens=run.num_prompt_tokens))
            row.segments.extend(
                Segment(num_tokens=item.num_response_tokens, continues=prompt) for item in run.items
            )
        for item in run.items:
            row.add_response(item, weight(item))
    return MicroBatch(
        token_ids=torch.tensor(row.token_ids, dtype=torch.int64),
        segments=row.segments,
        is_response=torch.tensor(row.is_response, dtype=torch.bool),
        rewards=torch.tensor(row.rewards, dtype=torch.float32),
        advantages=torch.tensor(row.advantages, dtype=torch.float32),
        behavior_logprobs=torch.tensor(row.behavior_logprobs, dtype=torch.float32),
        loss_weights=torch.tensor(row.loss_weights, dtype=torch.float32),
        sample_ids=[
            f"{item.sample.prompt.prompt_id}/{item.sample.sample_index}"
            for run in runs
            for item in run.items
        ],
        experts=row.stacked_experts(),
    )


def experts_of(sample: Sample) -> torch.Tensor | None:
    """[layers, T, experts per token] int16 of a sample by itself; None where it tells none."""
    row = _Row()
    row.add_prompt(sample)
    nothing = [0.0] * len(sample.token_ids)
    row.add_response(Item(sample=sample, reward=0.0, advantages=nothing), weight=0.0)
    return row.stacked_experts()


def unlearned_row(
    token_ids: Sequence[int],
    *,
    num_given: int,
    segments: Sequence[Segment] | None = None,
    sample_ids: Sequence[str] = (),
) -> MicroBatch:
    """A row that is only run, or scored: no loss is taken of it.

    Args:
        token_ids: At least one.
        num_given: Tokens at the start that are not scored; those behind count as responses.
        segments: One for all tokens if None.
        sample_ids: For messages.
    """
    nothing = torch.zeros(len(token_ids))
    return MicroBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        segments=segments or [Segment(num_tokens=len(token_ids))],
        is_response=torch.arange(len(token_ids)) >= num_given,
        rewards=nothing,
        advantages=nothing,
        behavior_logprobs=nothing,
        loss_weights=nothing,
        sample_ids=sample_ids,
    )
