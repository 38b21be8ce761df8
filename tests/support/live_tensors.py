"""Watch the tensors that exist while code runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Highest number of bytes that tensors of one kind held at the same time.

    Sees what every operation returns, in forward and in backward; not the scratch memory inside a
    kernel. Views count as their storage, once.
    """

    def __init__(self, is_kind: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self._is_kind = is_kind
        self._live: dict[int, int] = {}
        self.peak_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ARG002
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and self._is_kind(leaf):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._live:
            return
        self._live[key] = storage.nbytes()
        weakref.finalize(storage, self._live.pop, key, None)
        self.peak_bytes = max(self.peak_bytes, sum(self._live.values()))
