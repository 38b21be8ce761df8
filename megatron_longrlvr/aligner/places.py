"""The samples of a step as NeMo-Aligner deals them: places in an endless row.

Which prompt stands at a place is the prompt source's affair, whose position is in our checkpoints.
The trainer deals places, so that its counts of consumed samples, steps and epochs are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceSampler:
    """Satisfies what the trainer reads of Megatron's batch samplers."""

    consumed_samples: int
    total_samples: int
    """Of the whole run."""

    global_batch_size: int
    """Samples of a step, over all ranks."""

    micro_batch_size: int
    """Samples of a step on this rank: the engine takes them at once."""

    dp_rank: int
    drop_last: bool = True

    def __iter__(self) -> Iterator[list[int]]:
        first = self.consumed_samples + self.dp_rank * self.micro_batch_size
        while True:
            yield list(range(first, first + self.micro_batch_size))
            first += self.global_batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaceLoader:
    """Satisfies what the trainer reads of a data loader."""

    batch_sampler: PlaceSampler
    dataset: Sequence[int] = field(init=False)
    """A place is its own content."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", range(self.batch_sampler.total_samples))


@dataclass(frozen=True, slots=True)
class PlaceBatches:
    """The micro-batches of one step; NeMo-Aligner's own class for this comes with a web server."""

    sampler: Iterator[list[int]]
    num_micro_batches: int
    dataset: Sequence[int]
    collate: Callable[[Sequence[int]], dict[str, Tensor]]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _, places in zip(range(self.num_micro_batches), self.sampler, strict=False):
            yield self.collate([self.dataset[place] for place in places])


def collate_places(places: Sequence[int]) -> dict[str, Tensor]:
    """``place`` [B] int64."""
    return {"place": torch.tensor(places, dtype=torch.int64)}
