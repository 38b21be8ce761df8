"""megatron-core's gather and reduce-scatter over parts of unequal length, which gloo lacks.

Tokens that tensor-parallel ranks hold for the same experts are such parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional

from megatron_longrlvr.model.cpu.patches import replace


def patch_megatron_mappings() -> None:
    """Pad parts of unequal length to the longest for the time of the collective."""
    from megatron.core.tensor_parallel import mappings

    for name, unequal in (
        ("_gather_along_first_dim", gather_unequal),
        ("_reduce_scatter_along_first_dim", reduce_scatter_unequal),
    ):
        replace(
            mappings,
            name,
            _for_split_sizes(getattr(mappings, name), unequal),
            reason="gloo takes parts of equal length only",
        )


def gather_unequal(own: Tensor, group: ProcessGroup, sizes: Sequence[int]) -> Tensor:
    """Parts of all ranks, one after the other; rank r's has ``sizes[r]`` rows. Collective."""
    longest = max(sizes)
    gathered = own.new_empty(len(sizes), longest, *own.shape[1:])
    # Every rank was given the same sizes, so all of them pad to the same length.
    dist.all_gather(list(gathered), _padded(own, longest), group=group)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def reduce_scatter_unequal(whole: Tensor, group: ProcessGroup, sizes: Sequence[int]) -> Tensor:
    """Sum over ranks of this rank's part; rank r's part has ``sizes[r]`` rows. Collective."""
    longest = max(sizes)
    padded = torch.cat([_padded(part, longest) for part in torch.split(whole, list(sizes))])
    own = whole.new_empty(longest, *whole.shape[1:])
    dist.reduce_scatter_tensor(own, padded, group=group)
    return own[: sizes[group.rank()]]


def _padded(rows: Tensor, length: int) -> Tensor:
    return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, length - len(rows))).contiguous()


def _for_split_sizes(
    original: Callable[..., Tensor],
    unequal: Callable[[Tensor, ProcessGroup, Sequence[int]], Tensor],
) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def call(input_: Tensor, group: Any, sizes: Any = None, use_global_buffer: bool = False) -> Any:
        if sizes is None or group.size() == 1:
            return original(input_, group, sizes, use_global_buffer)
        return unequal(input_, group, [int(size) for size in sizes])

    return call
