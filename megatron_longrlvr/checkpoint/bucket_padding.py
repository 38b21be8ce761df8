"""Room for an optimizer state that is loaded, laid out as megatron-core cuts it.

The distributed optimizer's buffers consist of buckets, each padded to a multiple of the
data-parallel degree. The state that megatron-core makes room for drops that padding, but the
parameters' ranges, with which ``DistributedOptimizer.sharded_param_state_fully_reshardable`` then
cuts it into parameters, still count it: everything behind a padded bucket is shifted. It happens
where a buffer has several buckets: with tied embeddings over several pipeline stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.mcore import DistributedOptimizer, MegatronOptimizer


@contextmanager
def bucket_padding_kept(optimizer: MegatronOptimizer) -> Iterator[None]:
    """While this is open, the state that ``optimizer`` makes room for has its padding."""
    patched = [
        part for part in optimizer.chained_optimizers if isinstance(part, DistributedOptimizer)
    ]
    for part in patched:
        part.get_parameter_state_dp_zero = _padded_state_of(part)
    try:
        yield
    finally:
        for part in patched:
            del part.get_parameter_state_dp_zero  # the method of the class shows again


def _padded_state_of(optimizer: Any) -> Any:  # noqa: ANN401 - a method of an untyped class
    gather = optimizer.get_parameter_state_dp_zero

    def gather_padded(*args: object, **kwargs: object) -> dict[Any, Any] | None:
        state: dict[Any, Any] | None = gather(*args, **kwargs)
        if state is None:  # another rank has it
            return None
        for index, buffer in enumerate(optimizer.buffers):
            for tensors in state[index].values():
                for key, value in tensors.items():
                    if isinstance(value, Tensor):
                        tensors[key] = pad_buckets(value, buffer.buckets)
        return state

    return gather_padded


def pad_buckets(flat: Tensor, buckets: list[Any]) -> Tensor:
    """Move each bucket's elements to the bucket's offset; what is between them becomes 0.

    Args:
        flat: [N] elements of all buckets, one after the other.
        buckets: With ``offset`` and ``numel_unpadded``, in order; their sum is N.
    """
    last = buckets[-1]
    length = last.offset + last.numel_unpadded
    if length == len(flat):  # no padding before the last bucket's own
        return flat
    padded = torch.zeros(length, dtype=flat.dtype, device=flat.device)
    start = 0
    for bucket in buckets:
        end = start + bucket.numel_unpadded
        padded[bucket.offset : bucket.offset + bucket.numel_unpadded] = flat[start:end]
        start = end
    return padded
