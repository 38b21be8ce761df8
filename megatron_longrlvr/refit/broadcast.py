"""Tensors from the learner to the workers of all servers at once, outside of either side's world.

Learner and servers are launched apart, so neither can be in the other's torch.distributed world.
They meet in a store that the sender opens, and form a group of their own: gloo on CPU, NCCL on GPU.
A member that is lost breaks the group for good; those that are left make another one.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore

_SENDER = 0
_ANY_PORT = 0
# Between two looks at a broadcast under way: short beside that of a bucket.
_POLL_S = 0.0005
# NCCL's own watchdog would end the process; this side gives up before.
_WATCHDOG_FACTOR = 4


class BroadcastFailed(Exception):  # noqa: N818 - a value that travels as an exception, never shown
    """A member of the group is gone or silent; the group is of no more use."""


class BroadcastGroup:
    """A sender, rank 0, and receivers."""

    def __init__(
        self, store: Store, *, rank: int, size: int, address: str, is_cuda: bool, timeout_s: float
    ) -> None:
        """Join it; returns when all members have, and one broadcast has gone round.

        Args:
            store: From ``open_store`` or ``join_store``.
            rank: Of this member.
            size: Members.
            address: Of this host, as the others reach it.
            is_cuda: Tensors lie on GPUs.
            timeout_s: For joining, and for each broadcast.

        Raises:
            BroadcastFailed: Somebody did not come.
        """
        self._timeout_s = timeout_s
        # A backend of torch.distributed and what it is doing; stubs lack their calls.
        self._group: Any
        self._work: Any
        try:
            # Before anything that cannot be given up: NCCL waits for its members without an end.
            store.set(f"is_here/{rank}", "")
            store.wait([f"is_here/{other}" for other in range(size)], timedelta(seconds=timeout_s))
            if is_cuda:
                self._group = _nccl_group(store, rank, size, timeout_s)
            else:
                self._group = _gloo_group(store, rank, size, address, timeout_s)
        except RuntimeError as failure:
            raise BroadcastFailed(_first_line(failure)) from None
        self.broadcast(torch.zeros(1, device="cuda" if is_cuda else "cpu"))

    def broadcast(self, tensor: Tensor) -> None:
        """Give the sender's numbers to all; returns when they are here, or sent from here.

        Args:
            tensor: Contiguous, of the same size and dtype everywhere; overwritten at receivers.

        Raises:
            BroadcastFailed: A member is gone or silent.
        """
        self.begin(tensor)
        self.finish()

    def begin(self, tensor: Tensor) -> None:
        """Start a broadcast; ``finish`` is called before the next one.

        Raises:
            BroadcastFailed: A member is gone.
        """
        try:
            self._work = self._group.broadcast([tensor], _from_sender())
        except RuntimeError as failure:
            self._group.abort()
            raise BroadcastFailed(_first_line(failure)) from None

    def finish(self) -> None:
        """Wait for the broadcast that was begun.

        Raises:
            BroadcastFailed: A member is gone or silent.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            while not self._work.is_completed():
                if time.monotonic() > deadline:
                    raise BroadcastFailed(f"a broadcast took longer than {self._timeout_s:g} s")
                time.sleep(_POLL_S)
            self._work.wait()  # for the stream of the caller, and for what went wrong
        except (RuntimeError, BroadcastFailed) as failure:
            self._group.abort()
            raise BroadcastFailed(_first_line(failure)) from None


def open_store(*, timeout_s: float) -> TCPStore:
    """A store at a free port of this host, for the sender; it lives as long as this object."""
    return TCPStore(
        "0.0.0.0",  # receivers on other hosts come here
        _ANY_PORT,
        is_master=True,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )


def join_store(host: str, port: int, *, timeout_s: float) -> TCPStore:
    """The sender's store, for a receiver.

    Raises:
        BroadcastFailed: It cannot be reached.
    """
    try:
        return TCPStore(host, port, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
    except RuntimeError as failure:
        raise BroadcastFailed(_first_line(failure)) from None


def own_address(host: str, port: int, *, timeout_s: float) -> str:
    """Address of this host on the way to another one.

    Raises:
        BroadcastFailed: The other one cannot be reached.
    """
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            address: str = connection.getsockname()[0]
    except OSError as failure:
        raise BroadcastFailed(f"{host}:{port} cannot be reached: {failure}") from None
    return address


def _gloo_group(
    store: Store, rank: int, size: int, address: str, timeout_s: float
) -> dist.ProcessGroupGloo:
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address)]
    options._timeout = timedelta(seconds=timeout_s)
    return dist.ProcessGroupGloo(store, rank, size, options)


def _nccl_group(store: Store, rank: int, size: int, timeout_s: float) -> dist.ProcessGroupNCCL:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=_WATCHDOG_FACTOR * timeout_s)
    return dist.ProcessGroupNCCL(store, rank, size, options)


def _from_sender() -> dist.BroadcastOptions:
    options = dist.BroadcastOptions()
    options.rootRank = _SENDER
    options.rootTensor = 0
    return options


def _first_line(failure: Exception) -> str:
    return str(failure).partition("\n")[0]
