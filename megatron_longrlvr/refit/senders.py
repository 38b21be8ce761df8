"""The ranks of a run that broadcast to servers, led by the first one.

Each of them has a group of its own with all workers of all servers and sends every n-th bucket, so
that n links of the trainer's nodes carry weights at the same time. All ranks of the run go through
an update in the same rounds: the first one leads, and the others do what it says until it says that
the round is over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from megatron_longrlvr.parallel.collectives import broadcast_object, gather_objects
from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.refit.broadcast import (
    BroadcastFailed,
    BroadcastGroup,
    open_store,
    own_address,
)

_HTTP_PORT = 80


class _Step(Enum):
    OPEN = auto()
    JOIN = auto()
    SEND = auto()
    END = auto()
    """Of the round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What all senders are to do at the same time."""

    step: _Step
    server: str = ""
    """Address of one of them, to be reached by whoever opens a store."""

    group_size: int = 0


class Senders:
    """All ranks of the run have one and go through the same rounds."""

    def __init__(self, groups: ProcessGroups, *, count: int, timeout_s: float) -> None:
        """Reach nobody yet.

        Args:
            groups: Of this rank.
            count: Ranks that send: the first ones of the run.
            timeout_s: For a group to come together, and for each broadcast.
        """
        self.count = count
        self.timeout_s = timeout_s
        self._rank, self._world = groups.rank, groups.world
        self._address = ""
        self._store: TCPStore | None = None
        self._group: BroadcastGroup | None = None
        self._bucket: Tensor | None = None

    def keep(self, place: int, bucket: Mapping[str, Tensor]) -> None:
        """Remember a bucket of the round that this rank is to send.

        Args:
            place: Which of the round.
            bucket: Tensors of one dtype.
        """
        if place == self._rank:
            self._bucket = torch.cat([tensor.reshape(-1) for tensor in bucket.values()])

    @contextmanager
    def lead(self) -> Iterator[None]:
        """A round, for the first rank, which gives the orders in it."""
        try:
            yield
        finally:
            self._give(_Order(step=_Step.END))

    def follow(self) -> None:
        """The same round for another rank, which does what it is told."""
        step: _Step | None = None
        while step is not _Step.END:
            step = self._give(None)[0]

    def open(self, server: str) -> tuple[list[str], str]:
        """Open a store at every sender, in place of earlier ones; the first rank says so.

        Args:
            server: Address of one of the servers.

        Returns:
            Where they are, as ``host:port`` in order of the senders, and what went wrong.
        """
        _, told, problem = self._give(_Order(step=_Step.OPEN, server=server))
        return told[: self.count], problem

    def join(self, group_size: int) -> str:
        """Join the groups of all senders, which receivers are joining; returns what went wrong."""
        return self._give(_Order(step=_Step.JOIN, group_size=group_size))[2]

    def send(self) -> str:
        """Broadcast the buckets of the round; returns what went wrong."""
        return self._give(_Order(step=_Step.SEND))[2]

    def _give(self, order: _Order | None) -> tuple[_Step, list[str], str]:
        """Have an order carried out by all ranks; those that follow give None."""
        order = broadcast_object(order, self._world)
        if order.step is _Step.END:
            self._bucket = None
            return order.step, [], ""
        told, problem = "", ""
        if self._rank < self.count:
            try:
                told = self._carry_out(order)
            except BroadcastFailed as failure:
                problem = str(failure)
                self._group = None
        everything: Sequence[tuple[str, str]] = gather_objects((told, problem), self._world)
        problem = next((text for _, text in everything if text), "")
        return order.step, [text for text, _ in everything], problem

    def _carry_out(self, order: _Order) -> str:
        if order.step is _Step.OPEN:
            server = urlsplit(order.server)
            self._address = own_address(
                server.hostname or "", server.port or _HTTP_PORT, timeout_s=self.timeout_s
            )
            self._group, self._store = None, open_store(timeout_s=self.timeout_s)
            return f"{self._address}:{self._store.port}"
        if order.step is _Step.JOIN:
            assert self._store is not None, "opened before"
            self._group = BroadcastGroup(
                self._store,
                rank=0,
                size=order.group_size,
                address=self._address,
                is_cuda=has_cuda(),
                timeout_s=self.timeout_s,
            )
        elif self._bucket is not None:
            if self._group is None:
                raise BroadcastFailed("a sender has lost its group")
            self._group.broadcast(self._bucket)
        return ""
