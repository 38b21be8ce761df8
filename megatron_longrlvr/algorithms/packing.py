"""From samples with advantages to the packed micro-batches of each optimizer update.

Whole groups are dealt to the step's updates and ranks, what a rank got is packed without padding
up to a token budget, and every response token gets the weight with which it enters the loss. That
weight is the only normaliser there is, and it holds counts over all data-parallel ranks, so
neither the layout nor the way samples fall into micro-batches changes the loss of an update:

    token_mean     1 / num_global_response_tokens
    sequence_mean  1 / (response tokens of the sample * num_global_samples)
    constant       1 / (max_response_tokens * num_global_samples)

With a shared prompt a group is packed as ``[prompt | response_1 | ... | response_G]``: the prompt
is computed once, and the gradient is that of G whole samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from megatron_longrlvr.algorithms.dealing import (
    GroupCost,
    GroupShape,
    Place,
    deal_groups,
    load_imbalance,
)
from megatron_longrlvr.algorithms.rows import Item, Run, micro_batch
from megatron_longrlvr.config.training import AlgorithmConfig
from megatron_longrlvr.stages import AdvantageBatch, PackedBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Peers:
    """This rank among the data-parallel ranks."""

    rank: int
    size: int
    gather: Callable[[Any], list[Any]]
    """Picklable values of all ranks, in rank order; a collective."""


ALONE = Peers(rank=0, size=1, gather=lambda value: [value])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Counts:
    num_global_response_tokens: int
    num_global_samples: int
    num_global_tokens: int
    max_response_tokens: int


def num_packed_tokens(shape: GroupShape) -> float:
    """Tokens of a group with its prompt held once: the simplest cost."""
    return shape.num_prompt_tokens + shape.num_response_tokens


def pack(
    batch: AdvantageBatch,
    *,
    config: AlgorithmConfig,
    max_response_tokens: int,
    peers: Peers = ALONE,
    cost: GroupCost = num_packed_tokens,
) -> tuple[PackedBatch, ...]:
    """Pack this rank's share of the step's samples for each optimizer update.

    Groups may move to other ranks, so that all have about the same work.

    Args:
        batch: This rank's samples in group order; may be empty.
        config: Supplies the number of updates, the normaliser, the token budget, and whether a
            group's prompt is shared.
        max_response_tokens: Denominator of the ``constant`` normaliser.
        peers: All data-parallel ranks; every one of them calls this, with or without samples.
        cost: Work of a group, to even it out over the ranks.

    Returns:
        One record per update, as many on every rank. A rank's share may hold no micro-batch while
        others do; where ``num_global_samples`` is 0 no rank has any and the update is void.
    """
    deal = _deal(_groups(batch), num_updates=config.updates_per_step, peers=peers, cost=cost)
    updates = []
    for update in range(config.updates_per_step):
        dealt = deal.shapes_of(update)
        counts = _Counts(
            num_global_response_tokens=sum(shape.num_response_tokens for shape in dealt),
            num_global_samples=sum(len(shape.response_tokens) for shape in dealt),
            num_global_tokens=sum(shape.num_sample_tokens for shape in dealt),
            max_response_tokens=max_response_tokens,
        )
        imbalance = load_imbalance(deal.shapes, deal.places, update=update, cost=cost)
        updates.append(_pack_update(deal.share_of(update), batch.step, config, counts, imbalance))
    return tuple(updates)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Deal:
    """Where all groups of the step went, and the contents of those that this rank may need."""

    rank: int
    shapes: Sequence[Sequence[GroupShape]]
    places: Sequence[Sequence[Place]]
    groups: Mapping[tuple[int, int], Sequence[Item]]
    """By the rank that held it and its index there: this rank's own, and those that moved."""

    def share_of(self, update: int) -> list[Sequence[Item]]:
        """Groups that this rank trains on in an update."""
        mine = Place(update=update, rank=self.rank)
        return [
            self.groups[origin, index]
            for origin, places in enumerate(self.places)
            for index, place in enumerate(places)
            if place == mine
        ]

    def shapes_of(self, update: int) -> list[GroupShape]:
        """Groups of an update, on whatever rank."""
        return [
            shape
            for held, places in zip(self.shapes, self.places, strict=True)
            for shape, place in zip(held, places, strict=True)
            if place.update == update
        ]


def _deal(
    groups: Sequence[Sequence[Item]], *, num_updates: int, peers: Peers, cost: GroupCost
) -> _Deal:
    shapes = peers.gather([_shape(group) for group in groups])
    places = deal_groups(shapes, num_updates=num_updates, cost=cost)
    contents: dict[tuple[int, int], Sequence[Item]] = {
        (peers.rank, index): group for index, group in enumerate(groups)
    }
    # Known alike to all ranks, so all of them take part or none does.
    if any(place.rank != rank for rank, dealt in enumerate(places) for place in dealt):
        leaving = {
            (peers.rank, index): groups[index]
            for index, place in enumerate(places[peers.rank])
            if place.rank != peers.rank
        }
        for moved in peers.gather(leaving):
            contents.update(moved)
    return _Deal(rank=peers.rank, shapes=shapes, places=places, groups=contents)


def _groups(batch: AdvantageBatch) -> list[list[Item]]:
    items = [
        Item(sample=scored.sample, reward=scored.reward, advantages=advantages)
        for scored, advantages in zip(batch.scored, batch.advantages, strict=True)
    ]
    for item in items:
        assert item.num_response_tokens > 0, "a valid sample holds a token: the stop token at least"
    by_prompt = groupby(items, key=lambda item: item.sample.prompt.prompt_id)
    return [list(group) for _, group in by_prompt]


def _shape(group: Sequence[Item]) -> GroupShape:
    return GroupShape(
        num_prompt_tokens=group[0].num_prompt_tokens,
        response_tokens=tuple(item.num_response_tokens for item in group),
    )


def _pack_update(
    groups: Sequence[Sequence[Item]],
    step: int,
    config: AlgorithmConfig,
    counts: _Counts,
    imbalance: float,
) -> PackedBatch:
    normalize = _NORMALIZERS[config.normalizer]
    split = _split if config.shared_prompt else _single
    runs = [run for group in groups for run in split(group, config.micro_batch_tokens)]
    repeated = 0
    if config.shared_prompt:
        repeated = sum(run.num_prompt_tokens for run in runs)
        repeated -= sum(group[0].num_prompt_tokens for group in groups)
    return PackedBatch(
        step=step,
        micro_batches=[
            micro_batch(filled, weight=lambda item: normalize(item, counts))
            for filled in _fill(runs, max_tokens=config.micro_batch_tokens)
        ],
        num_global_response_tokens=counts.num_global_response_tokens,
        num_global_samples=counts.num_global_samples,
        num_global_tokens=counts.num_global_tokens,
        num_repeated_prompt_tokens=repeated,
        load_imbalance=imbalance,
    )


def _single(group: Sequence[Item], _max_tokens: int) -> list[Run]:
    return [Run(items=[item]) for item in group]


def _split(group: Sequence[Item], max_tokens: int) -> list[Run]:
    """Cut a group into as few runs as the budget allows; each holds the prompt again.

    A response that exceeds the budget with its prompt is alone.
    """
    runs: list[Run] = []
    for item in sorted(group, key=lambda item: item.num_response_tokens, reverse=True):
        room = [run for run in runs if run.num_tokens + item.num_response_tokens <= max_tokens]
        if room:
            room[0].items.append(item)
        else:
            runs.append(Run(items=[item]))
    return runs


def _fill(runs: Sequence[Run], *, max_tokens: int) -> list[list[Run]]:
    """Fill micro-batches longest first, each run into the first with room for it.

    A run above the budget is alone.
    """
    filled: list[list[Run]] = []
    sizes: list[int] = []
    for run in sorted(runs, key=lambda run: run.num_tokens, reverse=True):
        place = next((i for i, size in enumerate(sizes) if size + run.num_tokens <= max_tokens), -1)
        if place < 0:
            filled.append([run])
            sizes.append(run.num_tokens)
        else:
            filled[place].append(run)
            sizes[place] += run.num_tokens
    return filled


def _token_mean(_item: Item, counts: _Counts) -> float:
    return 1 / counts.num_global_response_tokens


def _sequence_mean(item: Item, counts: _Counts) -> float:
    return 1 / (item.num_response_tokens * counts.num_global_samples)


def _constant(_item: Item, counts: _Counts) -> float:
    return 1 / (counts.max_response_tokens * counts.num_global_samples)


_NORMALIZERS: Mapping[str, Callable[[Item, _Counts], float]] = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "constant": _constant,
}
