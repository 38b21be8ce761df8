"""A model chunk that ends in a value instead of logits.

Shapes: L tokens on this rank (a tensor-parallel share of them under sequence parallelism),
N selected tokens, H hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from megatron_longrlvr.model.mcore import gather_from_sequence_parallel_region
from megatron_longrlvr.model.policy_model import PolicyModel


class ValueHead(torch.nn.Module):
    """A linear map from a hidden state to one number; the same on every tensor-parallel rank."""

    def __init__(self, hidden_size: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        # Zeros: an untrained critic says nothing, in every layout.
        self.weight = torch.nn.Parameter(torch.zeros(1, hidden_size, dtype=dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, H] to [N] float32."""
        # fp32: bf16 would round a value to 1 part in 256, and advantages are differences of values.
        return torch.mv(hidden.float(), self.weight[0].float())


class CriticModel(PolicyModel):
    """One pipeline chunk of a critic."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - those of megatron-core's GPTModel
        # A tied embedding stays on the first stage: there is no output layer to share it with.
        super().__init__(**{**settings, "share_embeddings_and_output_weights": False})
        if self.post_process:
            # Under the name of the output layer, which megatron-core asks for when it saves.
            self.output_layer = ValueHead(self.config.hidden_size, dtype=self.config.params_dtype)

    def values(self, hidden: Tensor) -> Tensor:
        """[N] float32 values on the last chunk, from what ``forward`` gave."""
        found: Tensor = self.output_layer(hidden)
        return found

    def _for_head(self, hidden: Tensor) -> Tensor:
        # Every tensor-parallel rank computes the whole value and so the whole gradient: nothing
        # is to be summed, and each takes the part that belongs to its tokens.
        if self.config.sequence_parallel:
            return gather_from_sequence_parallel_region(  # type: ignore[no-any-return]
                hidden, tensor_parallel_output_grad=False, group=self.pg_collection.tp
            )
        return hidden
