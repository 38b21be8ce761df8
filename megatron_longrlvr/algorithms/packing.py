"""From samples with advantages to the packed micro-batches of each optimizer update.

Whole groups are dealt to the step's updates, a rank's samples are packed without padding up to a
token budget, and every response token gets the weight with which it enters the loss. That weight
is the only normaliser there is, and it holds counts over all data-parallel ranks, so neither the
layout nor the way samples fall into micro-batches changes the loss of an update:

    token_mean     1 / num_global_response_tokens
    sequence_mean  1 / (response tokens of the sample * num_global_samples)
    constant       1 / (max_response_tokens * num_global_samples)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby

import torch

from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.stages import AdvantageBatch, MicroBatch, PackedBatch, Sample

SumOverRanks = Callable[[tuple[int, ...]], tuple[int, ...]]
"""Element-wise sum over the data-parallel ranks; a collective."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    sample: Sample
    advantage: float

    @property
    def num_tokens(self) -> int:
        return len(self.sample.prompt.token_ids) + self.num_response_tokens

    @property
    def num_response_tokens(self) -> int:
        return len(self.sample.token_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counts:
    num_global_response_tokens: int
    num_global_samples: int
    max_response_tokens: int


def pack(
    batch: AdvantageBatch,
    *,
    config: AlgorithmConfig,
    max_response_tokens: int,
    sum_over_ranks: SumOverRanks,
) -> tuple[PackedBatch, ...]:
    """Pack one rank's samples for each of the step's optimizer updates.

    Args:
        batch: This rank's samples in group order; may be empty.
        config: Supplies the number of updates, the normaliser and the token budget.
        max_response_tokens: Denominator of the ``constant`` normaliser.
        sum_over_ranks: Called once with ``2 * updates_per_step`` counts, on every rank whether or
            not it has samples, so that it may be a collective.

    Returns:
        One record per update, as many on every rank. A rank's share may hold no micro-batch while
        others do; where ``num_global_samples`` is 0 no rank has any and the update is void.
    """
    shares = _deal_groups(_groups(batch), num_shares=config.updates_per_step)
    local = [(sum(item.num_response_tokens for item in share), len(share)) for share in shares]
    summed = sum_over_ranks(tuple(chain.from_iterable(local)))
    assert len(summed) == 2 * len(shares), "a sum over ranks keeps the number of counts"
    updates = []
    for share, num_response_tokens, num_samples in zip(
        shares, summed[::2], summed[1::2], strict=True
    ):
        counts = _Counts(
            num_global_response_tokens=num_response_tokens,
            num_global_samples=num_samples,
            max_response_tokens=max_response_tokens,
        )
        updates.append(_pack_update(share, step=batch.step, config=config, counts=counts))
    return tuple(updates)


def _groups(batch: AdvantageBatch) -> list[list[_Item]]:
    items = [
        _Item(sample=scored.sample, advantage=advantage)
        for scored, advantage in zip(batch.scored, batch.advantages, strict=True)
    ]
    for item in items:
        assert item.num_response_tokens > 0, "a valid sample holds a token: the stop token at least"
    by_prompt = groupby(items, key=lambda item: item.sample.prompt.prompt_id)
    return [list(group) for _, group in by_prompt]


def _deal_groups(groups: Sequence[Sequence[_Item]], *, num_shares: int) -> list[list[_Item]]:
    """Deal groups from the longest on, back and forth, so that shares even out in tokens.

    The numbers of groups differ by 1 at most.
    """
    longest_first = sorted(groups, key=_num_tokens, reverse=True)
    shares: list[list[_Item]] = [[] for _ in range(num_shares)]
    for place, group in enumerate(longest_first):
        lap, position = divmod(place, num_shares)
        shares[position if lap % 2 == 0 else num_shares - 1 - position].extend(group)
    return shares


def _pack_update(
    items: Sequence[_Item], *, step: int, config: AlgorithmConfig, counts: _Counts
) -> PackedBatch:
    normalize = _NORMALIZERS[config.normalizer]
    return PackedBatch(
        step=step,
        micro_batches=[
            _micro_batch(bin_items, [normalize(item, counts) for item in bin_items])
            for bin_items in _fill(items, max_tokens=config.micro_batch_tokens)
        ],
        num_global_response_tokens=counts.num_global_response_tokens,
        num_global_samples=counts.num_global_samples,
    )


def _fill(items: Sequence[_Item], *, max_tokens: int) -> list[list[_Item]]:
    """Fill micro-batches in order of length, longest first; samples of one length keep order.

    A sample above the budget is alone.
    """
    filled: list[list[_Item]] = []
    for item in sorted(items, key=lambda item: item.num_tokens, reverse=True):
        if filled and _num_tokens(filled[-1]) + item.num_tokens <= max_tokens:
            filled[-1].append(item)
        else:
            filled.append([item])
    return filled


def _num_tokens(items: Sequence[_Item]) -> int:
    return sum(item.num_tokens for item in items)


def _micro_batch(items: Sequence[_Item], weights: Sequence[float]) -> MicroBatch:
    token_ids: list[int] = []
    is_response: list[bool] = []
    advantages: list[float] = []
    behavior_logprobs: list[float] = []
    loss_weights: list[float] = []
    for item, weight in zip(items, weights, strict=True):
        num_prompt_tokens = len(item.sample.prompt.token_ids)
        num_response_tokens = item.num_response_tokens
        nothing = [0.0] * num_prompt_tokens
        token_ids += [*item.sample.prompt.token_ids, *item.sample.token_ids]
        is_response += [False] * num_prompt_tokens + [True] * num_response_tokens
        advantages += nothing + [item.advantage] * num_response_tokens
        behavior_logprobs += [*nothing, *item.sample.behavior_logprobs]
        loss_weights += nothing + [weight] * num_response_tokens
    assert len(behavior_logprobs) == len(token_ids), "one behaviour logprob per response token"
    ends = accumulate((item.num_tokens for item in items), initial=0)
    return MicroBatch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64),
        cu_seqlens=torch.tensor(list(ends), dtype=torch.int32),
        is_response=torch.tensor(is_response, dtype=torch.bool),
        advantages=torch.tensor(advantages, dtype=torch.float32),
        behavior_logprobs=torch.tensor(behavior_logprobs, dtype=torch.float32),
        loss_weights=torch.tensor(loss_weights, dtype=torch.float32),
        sample_ids=[f"{item.sample.prompt.prompt_id}/{item.sample.sample_index}" for item in items],
    )


def _token_mean(_item: _Item, counts: _Counts) -> float:
    return 1 / counts.num_global_response_tokens


def _sequence_mean(item: _Item, counts: _Counts) -> float:
    return 1 / (item.num_response_tokens * counts.num_global_samples)


def _constant(_item: _Item, counts: _Counts) -> float:
    return 1 / (counts.max_response_tokens * counts.num_global_samples)


_NORMALIZERS: Mapping[str, Callable[[_Item, _Counts], float]] = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "constant": _constant,
}
