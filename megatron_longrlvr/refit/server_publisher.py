"""The learner's end of a refit to servers: pause, hand over as files, reset, verify, resume.

Every rank takes part in gathering the weights; the first one writes them and talks to the servers.
What goes wrong there is raised on all ranks, once the gathering is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.model.hf_export import export_hf
from megatron_longrlvr.model.policy import Policy
from megatron_longrlvr.observability import names
from megatron_longrlvr.parallel.collectives import broadcast_object
from megatron_longrlvr.refit.buckets import fill_buckets
from megatron_longrlvr.refit.checksum import checksum
from megatron_longrlvr.refit.marks import explain_difference, held_names, mark, marked_columns
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

    num_bytes: int = 0


class ServerPublisher:
    """Hands the weights of a policy to all servers of a pool."""

    def __init__(
        self,
        policy: Policy,
        pool: ServerPool,
        background: BackgroundLoop,
        settings: RefitSettings,
        *,
        transfer_dir: Path,
        in_flight: bool,
    ) -> None:
        """Say nothing to the servers yet.

        Args:
            policy: Whose weights they are.
            pool: The servers.
            background: Where the pool lives.
            settings: How weights are handed over.
            transfer_dir: Where the files lie; the servers read there.
            in_flight: Change weights under samples that are being written.
        """
        self.policy = policy
        self.pool = pool
        self.settings = settings
        self._background = background
        self._folder = transfer_dir
        self.in_flight = in_flight
        self._connected: set[str] = set()
        self.num_updates = 0

    def publish(self, version: PolicyVersion) -> Mapping[str, float]:
        """Give all servers the policy's present weights; every rank calls this alike.

        Returns:
            Size and speed by metric name.

        Raises:
            RefitMismatch: A server does not hold what was sent, or none is left.
        """
        world = self.policy.groups.world
        every = self.settings.verify_every
        update = _Update(version=version, is_verified=every > 0 and self.num_updates % every == 0)
        start = time.perf_counter()
        # Before any server changes: no rank may take a new version for a wrong one.
        self._wait(self.pool.admit_for_update())
        dist.barrier(group=world)
        tensors = export_hf(self.policy, bucket_bytes=self.settings.bucket_bytes)
        problem, verify_s = "", 0.0
        if self.policy.groups.rank == 0:
            try:
                verify_s = self._replace(update, tensors)
            except (ServersFailed, ServerFault, RequestRefused, RefitMismatch) as failure:
                problem = f"version {version} did not get to the rollout servers: {failure}"
        for _ in tensors:  # the other ranks' part in it, or what a failure has left over
            pass
        told = (problem, update.num_bytes, verify_s)
        problem, num_bytes, verify_s = broadcast_object(told, world)
        if problem:
            raise RefitMismatch(problem)
        self._wait(self.pool.hold(version))
        self.num_updates += 1
        seconds = time.perf_counter() - start - verify_s
        return {
            names.REFIT_GB: num_bytes / _GIGA,
            names.REFIT_GB_PER_S: num_bytes / _GIGA / seconds,
            names.REFIT_VERIFY_S: verify_s,
        }

    def _replace(self, update: _Update, tensors: Iterator[tuple[str, Tensor]]) -> float:
        """Send everything; returns the seconds that verifying took."""
        self._everywhere(lambda client: client.pause(keeps_running=self.in_flight))
        new = set(self._everywhere(_do_nothing)) - self._connected
        if new:
            self._everywhere(lambda client: _connect(client, new))
            self._connected |= new
        if update.is_verified:
            update.parts = self._held_parts()
        self._everywhere(lambda client: client.start_update())
        for bucket in fill_buckets(tensors, bucket_bytes=self.settings.bucket_bytes):
            self._send(update, bucket)
        self._everywhere(lambda client: client.finish_update(update.version))
        self._reset_prefix_cache(update.version)
        start = time.perf_counter()
        if update.is_verified:
            self._compare(update)
        verify_s = time.perf_counter() - start
        self._everywhere(lambda client: client.resume())
        return verify_s

    def _send(self, update: _Update, bucket: Mapping[str, Tensor]) -> None:
        update.num_bytes += sum(tensor.nbytes for tensor in bucket.values())
        checksums = None
        if update.is_verified:
            checksums = {name: str(checksum(tensor)) for name, tensor in bucket.items()}
            for name, tensor in bucket.items():
                self._mark(update, name, tensor)
        path = self._folder / f"longrlvr-{os.getpid()}-{update.version}.safetensors"
        try:
            save_file({name: tensor.contiguous() for name, tensor in bucket.items()}, path)
            content = {"path": str(path), "checksums": checksums}
            self._everywhere(lambda client: client.send_bucket(content))
        finally:
            path.unlink(missing_ok=True)

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

    def _everywhere(self, action: Any) -> dict[str, Any]:  # noqa: ANN401 - of what it returns
        return self._wait(self.pool.update(action))  # type: ignore[no-any-return]

    def _wait(self, work: Any) -> Any:  # noqa: ANN401
        return self._background.submit(work).result()


async def _do_nothing(client: ServerClient) -> None:
    """Only tells who is there."""


async def _connect(client: ServerClient, new: set[str]) -> None:
    if client.url in new:
        await client.connect_transfer()


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
