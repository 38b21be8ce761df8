"""A trainee's weights and optimizer state in host memory, for as long as nobody computes with them.

Storages are emptied and filled in place, as megatron-core does it with buffers of gradients
(``_ParamAndGradBuffer.offload_to_cpu``), so that every view of them means again what it meant. Its
``offload_to_cpu`` of an optimizer gives parameters new tensors instead, and what AdamW then steps
on is no part of fp32 weights any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_longrlvr.model.trainee import Trainee
from megatron_longrlvr.parallel.device import device, give_back_memory, has_cuda, synchronize


@dataclass(frozen=True, kw_only=True, slots=True)
class _Emptied:
    storage: torch.UntypedStorage
    size: int
    """In bytes, before."""

    copy: Tensor | None
    """What was in it; None where nobody asks."""


class HostMemory:
    """Takes a trainee's tensors off the device, and brings them back."""

    def __init__(self, trainee: Trainee) -> None:
        """Move nothing yet.

        Args:
            trainee: Whose tensors nothing else shares.
        """
        self._trainee = trainee
        self._copies: dict[int, Tensor] = {}
        """By address of the storage; kept, because locking memory takes longer than copying it."""

        self._emptied: list[_Emptied] = []

    @property
    def holds(self) -> bool:
        """Whether the tensors are here, and not on the device."""
        return bool(self._emptied)

    def take(self) -> int:
        """Leave nothing on the device but for shapes; gradients are dropped. Returns bytes kept."""
        if self.holds:
            return 0
        for address, storage in _distinct(_kept_tensors(self._trainee)).items():
            copy = self._copy(address, storage)
            copy.copy_(_bytes(storage), non_blocking=True)
            self._emptied.append(_Emptied(storage=storage, size=storage.nbytes(), copy=copy))
        taken = sum(one.size for one in self._emptied)
        for storage in _distinct(_gradients(self._trainee)).values():
            self._emptied.append(_Emptied(storage=storage, size=storage.nbytes(), copy=None))
        synchronize()
        for one in self._emptied:
            one.storage.resize_(0)
        give_back_memory()
        return taken

    def give(self) -> None:
        """Fill the tensors again; gradients hold anything, as before they are first set to 0."""
        for one in self._emptied:
            one.storage.resize_(one.size)
            if one.copy is not None:
                _bytes(one.storage).copy_(one.copy, non_blocking=True)
        self._emptied = []
        synchronize()

    def _copy(self, address: int, storage: torch.UntypedStorage) -> Tensor:
        copy = self._copies.get(address)
        if copy is None or copy.numel() != storage.nbytes():
            copy = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=has_cuda())
            self._copies[address] = copy
        return copy


def _kept_tensors(trainee: Trainee) -> Iterator[Tensor]:
    for chunk in trainee.wrapped:
        yield from chunk.module.parameters()
        yield from chunk.module.buffers()
        for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers):
            if buffer.param_data is not None:
                yield buffer.param_data
    for part in getattr(trainee.optimizer, "chained_optimizers", [trainee.optimizer]):
        inner = part.optimizer
        if inner is None:  # this rank holds no parameter of that kind
            continue
        for group in inner.param_groups:
            yield from group["params"]
        for state in inner.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _gradients(trainee: Trainee) -> Iterator[Tensor]:
    for chunk in trainee.wrapped:
        for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers):
            yield buffer.grad_data


def _distinct(tensors: Iterator[Tensor]) -> dict[int, torch.UntypedStorage]:
    """Storages on this rank's device by address; views of one count once."""
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.device == device())
    return {storage._cdata: storage for storage in storages if storage.nbytes() > 0}


def _bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
