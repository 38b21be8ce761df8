"""RMSNorm that megatron-core can split along the sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_longrlvr.model.mcore import TransformerConfig


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm with fp32 statistics.

    megatron-core's own wrapper of ``torch.nn.RMSNorm`` refuses sequence parallelism. Under
    sequence parallelism each rank sees a part of the tokens, so the weight is marked for
    ``finalize_model_grads`` to sum its gradient over the tensor-parallel group.
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object
    ) -> None:
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> Tensor:
        # Statistics in fp32: the mean of squares of bf16 values loses the small ones.
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(hidden.dtype)
