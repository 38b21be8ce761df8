"""Reading weights back out of a vLLM model, from the copy that it computes with.

On CPU vLLM packs a matrix for its product and drops the original, or keeps one that it no longer
reads, so the only witness is the product itself: multiplied with a unit vector it gives a column,
exactly, since every other term is zero.

Shapes: N rows and K columns of the part of a matrix that this rank of the engine holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.layers.linear import (
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """The part of one Hugging Face tensor that this rank of the engine holds."""

    hf_name: str
    """Tied, the output layer is here under its own name beside the embedding."""

    module: Any
    is_bias: bool
    local_rows: slice
    """Rows of the module's own tensor."""

    rows: slice
    """Rows of the whole tensor."""

    columns: slice | None
    """Columns of the whole tensor; None where it has one dim."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the engine's weights."""
        dtype: torch.dtype = self.module.weight.dtype
        return dtype

    def read(self, columns: Sequence[int]) -> Tensor:
        """[N, len(columns)] of a matrix, or [N] where there is one dim.

        Args:
            columns: Of the whole tensor, among those that are held; not read where there is one
                dim.
        """
        own: Tensor = self.module.bias.data if self.is_bias else self.module.weight.data
        if self.columns is None:
            return own[self.local_rows]
        places = torch.tensor([column - self.columns.start for column in columns])
        if isinstance(self.module, VocabParallelEmbedding) and not _is_output(self.module):
            return own[self.local_rows][:, places]
        return _columns(self.module, places, self.columns.stop - self.columns.start)[
            self.local_rows
        ]


def holdings(model: Any) -> Iterator[Holding]:  # noqa: ANN401 - a model of untyped vllm
    """Everything that can be read back; fused experts cannot."""
    parts_by_module: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for path, module in model.named_modules():
        parent, _, leaf = path.rpartition(".")
        if isinstance(module, LinearBase):
            names = [f"{parent}.{part}" for part in parts_by_module.get(leaf, [leaf])]
            yield from _linear_holdings(module, names)
        elif isinstance(module, VocabParallelEmbedding):
            yield _vocabulary_holding(module, path)
        elif getattr(module, "weight", None) is not None and module.weight.dim() == 1:
            whole = slice(0, len(module.weight))
            yield Holding(
                hf_name=f"{path}.weight",
                module=module,
                is_bias=False,
                local_rows=whole,
                rows=whole,
                columns=None,
            )


def _linear_holdings(module: Any, names: Sequence[str]) -> Iterator[Holding]:  # noqa: ANN401
    rank, start = get_tensor_model_parallel_rank(), 0
    for place, name in enumerate(names):
        size, first = _part(module, place, rank)
        local, rows = slice(start, start + size), slice(first, first + size)
        start += size
        width = int(module.input_size_per_partition if _is_row(module) else module.input_size)
        left = rank * width if _is_row(module) else 0
        for is_bias in (False, True):
            if is_bias and getattr(module, "bias", None) is None:
                continue
            yield Holding(
                hf_name=f"{name}.{'bias' if is_bias else 'weight'}",
                module=module,
                is_bias=is_bias,
                local_rows=local,
                rows=rows,
                columns=None if is_bias else slice(left, left + width),
            )


def _part(module: Any, place: int, rank: int) -> tuple[int, int]:  # noqa: ANN401
    """Rows of one part of a linear layer that this rank holds, and the first of them."""
    if isinstance(module, QKVParallelLinear):
        heads = module.num_heads if place == 0 else module.num_kv_heads
        share = rank if place == 0 else rank // module.num_kv_head_replicas
        size = heads * module.head_size
        return size, share * size
    if isinstance(module, MergedColumnParallelLinear):
        size = module.output_sizes[place] // module.tp_size
        return size, rank * size
    size = int(getattr(module, "output_size_per_partition", module.output_size))
    return size, 0 if size == module.output_size else rank * size


def _vocabulary_holding(module: Any, path: str) -> Holding:  # noqa: ANN401
    shard = module.shard_indices
    first, last = shard.org_vocab_start_index, shard.org_vocab_end_index
    return Holding(
        hf_name=f"{path}.weight",
        module=module,
        is_bias=False,
        local_rows=slice(0, last - first),
        rows=slice(first, last),
        columns=slice(0, module.embedding_dim),
    )


def _columns(module: Any, places: Tensor, width: int) -> Tensor:  # noqa: ANN401
    """[N, len(places)] of a layer's weight."""
    if not hasattr(module, "cpu_linear"):
        return module.weight.data[:, places.to(module.weight.device)]  # type: ignore[no-any-return]
    dtype = module.weight.dtype
    unit = torch.zeros(len(places), width, dtype=dtype)
    unit[torch.arange(len(places)), places] = 1
    product: Tensor = module.quant_method.apply(module, unit, bias=None)
    return product.T


def _is_row(module: Any) -> bool:  # noqa: ANN401
    return isinstance(module, RowParallelLinear)


def _is_output(module: Any) -> bool:  # noqa: ANN401
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    return isinstance(module, ParallelLMHead)
