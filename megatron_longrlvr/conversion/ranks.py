"""The processes that convert together: one, or as many as torchrun started.

Conversion needs no process groups of megatron-core and no accelerator: plain gloo, through which
only plans and failures go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.parallel.groups import launched_world_size

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among those that convert; every rank calls the methods alike."""

    rank: int = 0
    size: int = 1

    def on_every_rank(self, action: Callable[[], _Value]) -> list[_Value]:
        """Run ``action`` everywhere and gather its values; one failure fails all ranks.

        Raises:
            CheckpointError: Some rank could not; holds the reason of the first that failed.
        """
        value, failure = _attempt(action)
        if self.size == 1:
            results = [(value, failure)]
        else:
            results = [(value, failure)] * self.size
            # Reached by all ranks, failed or not.
            dist.all_gather_object(results, (value, failure))
        for rank, (_, text) in enumerate(results):
            if text is not None:
                raise CheckpointError(text if self.size == 1 else f"rank {rank}: {text}")
        return [one for one, _ in results]  # type: ignore[misc] # None only where action's is

    def on_first_rank(self, action: Callable[[], _Value]) -> _Value:
        """Run ``action`` on rank 0; its value or its failure reaches all, once it is done."""
        values = self.on_every_rank(lambda: action() if self.rank == 0 else None)
        return values[0]  # type: ignore[return-value] # None only where action's is


@contextmanager
def started_ranks() -> Iterator[Ranks]:
    """Bring the processes of this launch together; the world that somebody started is used."""
    is_ours = not dist.is_initialized() and launched_world_size() > 1
    if is_ours:
        dist.init_process_group("gloo")
    try:
        if dist.is_initialized():
            yield Ranks(rank=dist.get_rank(), size=dist.get_world_size())
        else:
            yield Ranks()
    finally:
        if is_ours:
            dist.destroy_process_group()


def _attempt(action: Callable[[], _Value]) -> tuple[_Value | None, str | None]:
    try:
        return action(), None
    except (CheckpointError, OSError, ValueError) as error:
        return None, str(error)
