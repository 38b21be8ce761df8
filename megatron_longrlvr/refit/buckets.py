"""Tensors in portions that bound what is in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor


def fill_buckets(
    tensors: Iterable[tuple[str, Tensor]], *, bucket_bytes: int
) -> Iterator[dict[str, Tensor]]:
    """Put named tensors together, in order, as long as they fit.

    Args:
        tensors: Name and tensor.
        bucket_bytes: Size of a bucket; a tensor above it has one to itself.
    """
    bucket: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors:
        if bucket and num_bytes + tensor.nbytes > bucket_bytes:
            yield bucket
            bucket, num_bytes = {}, 0
        bucket[name] = tensor
        num_bytes += tensor.nbytes
    if bucket:
        yield bucket
