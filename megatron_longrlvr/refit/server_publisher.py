"""The learner's end of a refit to servers: pause, hand over, reset, verify, resume.

Every rank takes part in gathering the weights; the first one sends them and talks to the servers.
What goes wrong there is raised on all ranks, once the gathering is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.model.hf_export import export_hf
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.observability import names
from megatron_longrlvr.parallel.collectives import broadcast_object
from megatron_longrlvr.refit.buckets import fill_buckets
from megatron_longrlvr.refit.checksum import checksum
from megatron_longrlvr.refit.marks import explain_difference, held_names, mark, marked_columns
from megatron_longrlvr.refit.senders import Senders
from megatron_longrlvr.refit.server_transport import (
    Action,
    BroadcastTransport,
    FileTransport,
    ServerTransport,
)
from megatron_longrlvr.refit.settings import RefitSettings
from megatron_longrlvr.rollout.server_client import RequestRefused, ServerClient, ServerFault
from megatron_longrlvr.rollout.server_pool import ServerPool, ServersFailed
from megatron_longrlvr.stages import PolicyVersion

_GIGA = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class _RemotePart:
    """A part of a tensor that a worker holds, as it tells; satisfies ``HeldPart``."""

    hf_name: str
    rows: slice
    columns: slice | None
    dtype: torch.dtype


@dataclass(kw_only=True)
class _Update:
    """One update on its way."""

    version: PolicyVersion
    is_verified: bool
    parts: Mapping[str, Sequence[_RemotePart]] = field(default_factory=dict)
    """What the workers hold, by name; several where they hold different parts."""

    marks: dict[tuple[str, str], int] = field(default_factory=dict)
    """By name and place of the part."""

    checksums: dict[str, str] = field(default_factory=dict)
    """Of the tensors of the round by name, as text."""

    num_bytes: int = 0
    num_rounds: int = 0


class ServerPublisher:
    """Hands the weights of a policy to all servers of a pool."""

    def __init__(
        self,
        policy: Policy,
        pool: ServerPool,
        background: BackgroundLoop,
        settings: RefitSettings,
        server: RolloutServerConfig,
    ) -> None:
        """Say nothing to the servers yet.

        Args:
            policy: Whose weights they are.
            pool: The servers.
            background: Where the pool lives.
            settings: How weights are handed over.
            server: How servers are reached.
        """
        self.policy = policy
        self.pool = pool
        self.settings = settings
        self._background = background
        self._transport: ServerTransport
        if server.transport == "broadcast":
            senders = Senders(
                policy.groups,
                count=server.broadcast_senders,
                timeout_s=server.broadcast_timeout_s,
            )
            self._transport = BroadcastTransport(self._begin, senders)
        else:
            self._transport = FileTransport(self._begin, Path(server.transfer_dir))
        self.in_flight = server.in_flight_updates
        self.num_updates = 0

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Give all servers the policy's present weights; every rank calls this alike.

        Returns:
            Size and speed by metric name.

        Raises:
            RefitMismatch: A server does not hold what was sent, none is left, or a file for them
                could not be written.
        """
        world = self.policy.groups.world
        every = self.settings.verify_every
        update = _Update(version=version, is_verified=every > 0 and self.num_updates % every == 0)
        start = time.perf_counter()
        # Before any server changes: no rank may take a new version for a wrong one.
        strangers = self._background.submit(self.pool.admit_for_update()).result()
        dist.barrier(group=world)
        rounds, problem, verify_s = self._rounds(update), "", 0.0
        if self.policy.groups.rank == 0:
            try:
                verify_s = self._replace(update, rounds, strangers)
            except (ServersFailed, ServerFault, RequestRefused, RefitMismatch) as failure:
                problem = f"version {version} did not get to the rollout servers: {failure}"
            for _ in rounds:  # what a failure has left over
                with self._transport.lead():
                    pass
        else:
            self._transport.follow()
            for _ in rounds:
                self._transport.follow()
        told = (problem, update.num_bytes, verify_s)
        problem, num_bytes, verify_s = broadcast_object(told, world)
        if problem:
            raise RefitMismatch(problem)
        self._background.submit(self.pool.hold(version)).result()
        self.num_updates += 1
        seconds = time.perf_counter() - start - verify_s
        return {
            names.REFIT_GB: num_bytes / _GIGA,
            names.REFIT_GB_PER_S: num_bytes / _GIGA / seconds,
            names.REFIT_VERIFY_S: verify_s,
        }

    def _replace(self, update: _Update, rounds: Iterator[None], strangers: frozenset[str]) -> float:
        """Send everything; returns the seconds that verifying took."""
        with self._transport.lead():
            self._everywhere(lambda client: client.pause(keeps_running=self.in_flight))
            if strangers:
                # One of them may have been lost in the middle of an update, and be back.
                self._everywhere(_forget_update(strangers))
            self._transport.connect(strangers)
            if update.is_verified:
                update.parts = self._held_parts()
            self._everywhere(lambda client: client.start_update())
        for _ in rounds:
            with self._transport.lead():
                self._transport.send(update.num_rounds, update.checksums or None)
            update.num_rounds += 1
            update.checksums = {}
        self._transport.check(update.num_rounds)
        self._everywhere(lambda client: client.finish_update(update.version))
        self._reset_prefix_cache(update.version)
        start = time.perf_counter()
        if update.is_verified:
            self._compare(update)
        verify_s = time.perf_counter() - start
        self._everywhere(lambda client: client.resume())
        return verify_s

    def _rounds(self, update: _Update) -> Iterator[None]:
        """Gather the weights, a round of buckets at a time; every rank does so alike."""
        tensors = export_hf(self.policy, bucket_bytes=self.settings.bucket_bytes)
        size, count = self._transport.round_size, 0
        for bucket in fill_buckets(tensors, bucket_bytes=self.settings.bucket_bytes):
            if self.policy.groups.rank == 0:
                self._note(update, bucket)
            self._transport.keep(count % size, bucket)
            count += 1
            if count % size == 0:
                yield
        if count % size:
            yield

    def _note(self, update: _Update, bucket: Mapping[str, Tensor]) -> None:
        update.num_bytes += sum(tensor.nbytes for tensor in bucket.values())
        if update.is_verified:
            for name, tensor in bucket.items():
                update.checksums[name] = str(checksum(tensor))
                self._mark(update, name, tensor)

    def _mark(self, update: _Update, name: str, tensor: Tensor) -> None:
        is_tied = self.policy.spec.tie_word_embeddings
        for held in held_names(name, is_tied=is_tied):
            for part in update.parts.get(held, ()):
                columns = marked_columns(
                    part, count=self.settings.verify_columns, version=update.version
                )
                update.marks[held, _place(part)] = mark(tensor, part, columns)

    def _held_parts(self) -> dict[str, list[_RemotePart]]:
        parts: dict[str, list[_RemotePart]] = {}
        for workers in self._everywhere(_ask_parts).values():
            for held in workers:
                for name, told in held.items():
                    part = _read_part(name, told)
                    if part not in parts.setdefault(name, []):
                        parts[name].append(part)
        return parts

    def _reset_prefix_cache(self, version: PolicyVersion) -> None:
        done = self._everywhere(
            lambda client: client.reset_prefix_cache(with_running=self.in_flight)
        )
        for url, is_reset in done.items():
            if not is_reset:
                raise RefitMismatch(
                    f"{url} refused to reset its prefix cache for version {version}: "
                    "blocks that older weights computed are in use"
                )

    def _compare(self, update: _Update) -> None:
        asked = (str(update.version), str(self.settings.verify_columns))
        held = self._everywhere(lambda client: client.call_workers("longrlvr_read_marks", *asked))
        told = self._everywhere(_ask_parts)
        for url, workers in held.items():
            for marks, parts in zip(workers, told[url], strict=True):
                differing = [
                    name
                    for name, found in marks.items()
                    if str(update.marks.get((name, _place(_read_part(name, parts[name]))))) != found
                ]
                if differing:
                    explained = explain_difference(
                        differing, total=len(marks), version=update.version
                    )
                    raise RefitMismatch(f"{url}: {explained}")

    def _everywhere(self, action: Action) -> dict[str, Any]:
        return self._begin(action).result()

    def _begin(self, action: Action) -> Future[dict[str, Any]]:
        return self._background.submit(self.pool.update(action))


def _forget_update(urls: frozenset[str]) -> Action:
    async def forget(client: ServerClient) -> None:
        if client.url in urls:
            await client.call_workers("longrlvr_forget_update")

    return forget


async def _ask_parts(client: ServerClient) -> Sequence[Mapping[str, Any]]:
    return await client.call_workers("longrlvr_held_parts")


def _read_part(name: str, told: Mapping[str, Any]) -> _RemotePart:
    return _RemotePart(
        hf_name=name,
        rows=slice(*told["rows"]),
        columns=None if told["columns"] is None else slice(*told["columns"]),
        dtype=getattr(torch, told["dtype"]),
    )


def _place(part: _RemotePart) -> str:
    return f"{part.rows}{part.columns}"
