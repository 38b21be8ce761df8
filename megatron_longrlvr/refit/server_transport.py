"""How buckets of weights get to servers: as files, or by broadcast to all their workers at once.

In a broadcast every sender and the workers of all servers are one group. Where a server is lost in
the middle of one, the others make new groups, and whoever did not get the bucket gets it again.

All ranks of the run go through an update in rounds of ``round_size`` buckets, which lie at one rank
each; the first rank leads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.refit.senders import Senders
from megatron_longrlvr.rollout.server_client import ServerClient
from megatron_longrlvr.rollout.server_pool import ServersFailed

# Of one bucket, or of a group: each failure should cost a server, and there are few.
_MAX_ATTEMPTS = 4

Checksums = Mapping[str, str]
Action = Callable[[ServerClient], Coroutine[Any, Any, Any]]
Everywhere = Callable[[Action], "Future[dict[str, Any]]"]
"""Begins something at every server of an update; gives what came of it, by address."""


class ServerTransport(Protocol):
    """Hands buckets to the servers of an update."""

    @property
    def round_size(self) -> int:
        """Buckets that are handed over together."""
        ...

    def keep(self, place: int, bucket: Mapping[str, Tensor]) -> None:
        """Take a bucket of the round; every rank calls this with the same ones.

        Args:
            place: Which of the round.
            bucket: Tensors of one dtype by Hugging Face name.
        """
        ...

    def lead(self) -> AbstractContextManager[None]:
        """A round, for the first rank, which connects or sends in it."""
        ...

    def follow(self) -> None:
        """The same round for another rank."""
        ...

    def connect(self, strangers: frozenset[str]) -> None:
        """Reach every server of the update that begins.

        Args:
            strangers: Addresses of servers that have been started since the last one.
        """
        ...

    def send(self, number: int, checksums: Checksums | None) -> None:
        """Have every server load the buckets of the round.

        Args:
            number: Of the round, from 0.
            checksums: Of the tensors by name, as text; None where they are not verified.

        Raises:
            RefitMismatch: A bucket could not be written where the servers read it.
        """
        ...

    def check(self, num_rounds: int) -> None:
        """Make sure that every server has loaded all buckets of the update.

        Raises:
            RefitMismatch: One has not.
        """
        ...


class FileTransport:
    """Satisfies ``ServerTransport``; a bucket is a file that all servers read."""

    round_size = 1

    def __init__(self, everywhere: Everywhere, folder: Path) -> None:
        self._everywhere = everywhere
        self._folder = folder
        self._connected: set[str] = set()
        self._bucket: Mapping[str, Tensor] = {}

    def keep(self, place: int, bucket: Mapping[str, Tensor]) -> None:  # noqa: ARG002
        self._bucket = bucket

    def lead(self) -> AbstractContextManager[None]:
        return nullcontext()

    def follow(self) -> None:
        self._bucket = {}

    def connect(self, strangers: frozenset[str]) -> None:
        self._connected -= strangers
        new = set(self._everywhere(_do_nothing).result()) - self._connected

        async def get_ready(client: ServerClient) -> None:
            if client.url in new:
                await client.connect_transfer({})

        self._connected |= set(self._everywhere(get_ready).result())

    def send(self, number: int, checksums: Checksums | None) -> None:
        path = self._folder / f"longrlvr-{os.getpid()}-{number}.safetensors"
        content = {"place": number, "path": str(path), "checksums": checksums}
        try:
            self._write(path)
            self._everywhere(lambda client: client.send_bucket(content)).result()
        finally:
            path.unlink(missing_ok=True)

    def check(self, num_rounds: int) -> None:
        """Nothing is left to find out: a server that cannot load a file says so."""

    def _write(self, path: Path) -> None:
        try:
            save_file({name: tensor.contiguous() for name, tensor in self._bucket.items()}, path)
        except (OSError, SafetensorError) as error:
            raise RefitMismatch(
                f"cannot write to rollout.server.transfer_dir={self._folder}: {error}"
            ) from error
        finally:
            self._bucket = {}


class BroadcastTransport:
    """Satisfies ``ServerTransport``; a bucket travels once, along all servers."""

    def __init__(self, everywhere: Everywhere, senders: Senders) -> None:
        self._everywhere = everywhere
        self._senders = senders
        self._shapes: list[dict[str, list[int]]] = []
        self._dtype = ""
        self._members: Mapping[str, int] | None = None
        """Workers of each server in the groups, by address; None where there are no groups."""

    @property
    def round_size(self) -> int:
        return self._senders.count

    def keep(self, place: int, bucket: Mapping[str, Tensor]) -> None:
        if place == 0:
            self._shapes = []
        self._shapes.append({name: list(tensor.shape) for name, tensor in bucket.items()})
        self._dtype = str(next(iter(bucket.values())).dtype).removeprefix("torch.")
        self._senders.keep(place, bucket)

    def lead(self) -> AbstractContextManager[None]:
        return self._senders.lead()

    def follow(self) -> None:
        self._senders.follow()

    def connect(self, strangers: frozenset[str]) -> None:
        members = self._count_workers()
        if members != self._members or strangers & members.keys():
            self._regroup()

    def send(self, number: int, checksums: Checksums | None) -> None:
        content = {
            "place": number,
            "shapes": self._shapes,
            "dtype": self._dtype,
            "checksums": checksums,
        }
        problem = ""
        for _ in range(_MAX_ATTEMPTS):
            members = self._members or self._regroup()
            receiving = self._everywhere(lambda client: client.send_bucket(content))
            problem = self._senders.send()
            if receiving.result().keys() == members.keys() and not problem:
                return
            self._members = None
            if self._all_have(number):
                return
        raise ServersFailed(
            f"bucket {number} was broadcast {_MAX_ATTEMPTS} times and did not arrive everywhere; "
            f"the last time: {problem or 'a server was lost'}"
        )

    def check(self, num_rounds: int) -> None:
        if not self._all_have(num_rounds - 1):
            raise RefitMismatch(
                f"a rollout server has not loaded all {num_rounds} buckets that were broadcast"
            )

    def _regroup(self) -> Mapping[str, int]:
        """Make groups with all servers of the update; returns their members."""
        self._members = None
        problem = ""
        for _ in range(_MAX_ATTEMPTS):
            members = self._count_workers()
            stores, problem = self._senders.open(next(iter(members)))
            if problem:
                continue
            joining = self._everywhere(_join(members, stores, self._senders.timeout_s))
            problem = self._senders.join(1 + sum(members.values()))
            has_joined = joining.result()
            if not problem and has_joined.keys() == members.keys():
                self._members = members
                return members
        raise ServersFailed(
            f"the rollout servers did not come together for broadcasts in {_MAX_ATTEMPTS} "
            f"attempts; the last time: {problem or 'a server was lost'}"
        )

    def _count_workers(self) -> dict[str, int]:
        workers: dict[str, Sequence[Any]] = self._everywhere(_ask_buckets).result()
        return {url: len(answers) for url, answers in workers.items()}

    def _all_have(self, number: int) -> bool:
        workers = self._everywhere(_ask_buckets).result()
        return all(one["buckets"] > number for answers in workers.values() for one in answers)


def _join(members: Mapping[str, int], stores: Sequence[str], timeout_s: float) -> Action:
    size = 1 + sum(members.values())
    first_ranks: dict[str, int] = {}
    first_rank = 1
    for url, num_workers in members.items():
        first_ranks[url] = first_rank
        first_rank += num_workers

    async def join(client: ServerClient) -> None:
        info = {
            "stores": stores,
            "first_rank": first_ranks[client.url],
            "size": size,
            "timeout_s": timeout_s,
        }
        await client.connect_transfer(info)

    return join


async def _do_nothing(client: ServerClient) -> None:
    """Only tells who is there."""


async def _ask_buckets(client: ServerClient) -> Sequence[Mapping[str, Any]]:
    return await client.call_workers("longrlvr_read_buckets")
