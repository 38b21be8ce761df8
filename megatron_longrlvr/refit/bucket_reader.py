"""A server worker's end of buckets: where they come from, which of them are there, and intact.

A bucket that does not arrive by broadcast is no failure of this worker: the learner asks for it and
sends it again, to all of a new group. Whoever has it already takes part and loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor

from megatron_longrlvr.errors import RefitMismatch
from megatron_longrlvr.refit.broadcast import (
    BroadcastFailed,
    BroadcastGroup,
    join_store,
    own_address,
)
from megatron_longrlvr.refit.checksum import checksum


@dataclass
class GroupInfo:
    """Where broadcasts come from; nothing where buckets are files."""

    stores: Sequence[str] = ()
    """Of the senders, as ``host:port``; each has a group of its own."""

    first_rank: int = 0
    """Of this server's workers in the groups."""

    size: int = 0
    """Of each group."""

    timeout_s: float = 0.0


@dataclass
class ServerBucket:
    """Some Hugging Face tensors: in a file, or about to be broadcast by several senders at once."""

    place: int
    """Among the buckets of an update, from 0; one that is sent again has the place it had."""

    path: str | None = None
    shapes: Sequence[Mapping[str, Sequence[int]]] | None = None
    """By name, in the order in which they are broadcast one behind the other, of each sender."""

    dtype: str = ""
    """Of tensors that are broadcast, without ``torch.``."""

    checksums: Mapping[str, str] | None = None
    """Of the tensors as they were sent, by name; None where this update is not verified. As text,
    since not every reader of JSON keeps 64 bits of a number."""


class BucketReader:
    """Reads the buckets of one update after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._groups: list[BroadcastGroup] = []
        self.num_read = 0
        """Buckets of this update."""

    def join(self, info: GroupInfo, *, worker: int) -> None:
        """Join the learner's groups, in place of earlier ones; the learner sees if that fails.

        Args:
            info: From the learner.
            worker: Rank of this worker within its server.
        """
        self.leave()
        with suppress(BroadcastFailed):
            for store in info.stores:
                host, _, port = store.rpartition(":")
                group = BroadcastGroup(
                    join_store(host, int(port), timeout_s=info.timeout_s),
                    rank=info.first_rank + worker,
                    size=info.size,
                    address=own_address(host, int(port), timeout_s=info.timeout_s),
                    is_cuda=self._device.type == "cuda",
                    timeout_s=info.timeout_s,
                )
                self._groups.append(group)

    def leave(self) -> None:
        """Take no further broadcasts."""
        self._groups = []

    def begin(self) -> None:
        """Expect the first bucket of an update."""
        self.num_read = 0

    def read(self, bucket: ServerBucket) -> Mapping[str, Tensor]:
        """Tensors to be loaded; none where the bucket did not arrive, or had arrived before.

        Raises:
            RefitMismatch: Its tensors are not those that were sent, or an earlier one is missing.
        """
        if bucket.place > self.num_read:
            raise RefitMismatch(
                f"bucket {bucket.place} of an update came to a worker that lacks bucket "
                f"{self.num_read}"
            )
        tensors: dict[str, Tensor]
        if bucket.path is not None:
            tensors = load_file(bucket.path, device=str(self._device))
        else:
            tensors = self._receive(bucket)
        if not tensors or bucket.place < self.num_read:
            return {}
        for name, sent in (bucket.checksums or {}).items():
            arrived = checksum(tensors[name])
            if str(arrived) != sent:
                raise RefitMismatch(
                    f"a bucket was corrupted on its way to the engine: {name} has checksum "
                    f"{arrived:x} and was sent with {int(sent):x}"
                )
        self.num_read += 1
        return tensors

    def _receive(self, bucket: ServerBucket) -> dict[str, Tensor]:
        assert bucket.shapes is not None, "without a path it is broadcast"
        dtype = getattr(torch, bucket.dtype)
        sizes = [[math.prod(shape) for shape in part.values()] for part in bucket.shapes]
        # Fresh ones for each bucket: vLLM holds on to its tensors until their layer is complete.
        flats = [torch.empty(sum(one), dtype=dtype, device=self._device) for one in sizes]
        if len(self._groups) < len(flats):
            return {}
        try:
            for group, flat in zip(self._groups, flats, strict=False):
                group.begin(flat)
            for group, _ in zip(self._groups, flats, strict=False):
                group.finish()
        except BroadcastFailed:
            self.leave()
            return {}
        return {
            name: tensor.view(list(shape))
            for part, flat, numels in zip(bucket.shapes, flats, sizes, strict=True)
            for (name, shape), tensor in zip(part.items(), torch.split(flat, numels), strict=True)
        }
