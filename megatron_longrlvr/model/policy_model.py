"""GPTModel whose forward takes a plan and stops before the output layer.

megatron-core's own forward turns every token's hidden state into logits. A policy needs them
only where it wrote tokens, and never all at once, so this forward ends with the hidden states
of the selected tokens; ``logprobs.py`` and the engine take it from there.

Shapes: L tokens on this rank (a tensor-parallel share of them under sequence parallelism),
N selected tokens, H hidden, V vocabulary (padded).
"""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_longrlvr.model.attention import AttentionPlan
from megatron_longrlvr.model.logprobs import VocabularyShard, vocabulary_shard
from megatron_longrlvr.model.mcore import (
    GPTModel,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)


class PolicyModel(GPTModel):  # type: ignore[misc]
    """One pipeline chunk of the policy."""

    def forward(self, token_ids: Tensor, plan: AttentionPlan, selected: Tensor) -> Tensor:
        """Hidden states of this chunk.

        Args:
            token_ids: [L] int64; read by the first pipeline chunk alone.
            plan: Positions and attention of these tokens.
            selected: [N] int64 into the L tokens; read by the last pipeline chunk alone.

        Returns:
            Before the last chunk [L, 1, H]; on the last chunk [N, H] after the final norm, the
            same on every tensor-parallel rank; backward sums over them.
        """
        if self.config.fine_grained_activation_offloading:
            self.preprocess_for_fine_grained_offloading()
        hidden = None
        if self.pre_process:
            hidden = self.embedding(input_ids=token_ids.unsqueeze(0), position_ids=None)
        hidden = self.decoder(hidden_states=hidden, attention_mask=None, packed_seq_params=plan)
        if not self.post_process:
            return hidden  # type: ignore[no-any-return]
        return self._for_head(hidden).squeeze(1).index_select(0, selected)

    def _for_head(self, hidden: Tensor) -> Tensor:
        """All of this context-parallel rank's tokens [L, 1, H], with what backward does to them."""
        group = self.pg_collection.tp
        if self.config.sequence_parallel:
            # Every rank's vocabulary shard contributes to the gradient: reduce-scatter it.
            return gather_from_sequence_parallel_region(  # type: ignore[no-any-return]
                hidden, tensor_parallel_output_grad=True, group=group
            )
        return copy_to_tensor_model_parallel_region(hidden, group=group)  # type: ignore[no-any-return]

    def output_weight(self) -> Tensor:
        """[V / tp, H] weight of the output layer on the last chunk, tied or not."""
        if self.share_embeddings_and_output_weights:
            return self.shared_embedding_or_output_weight()  # type: ignore[no-any-return]
        return self.output_layer.weight  # type: ignore[no-any-return]

    def output_shard(self, vocab_size: int) -> tuple[Tensor, VocabularyShard]:
        """The output layer's weight on the last chunk, and which tokens its rows are.

        Args:
            vocab_size: Of the model, without what pads the layer.
        """
        weight, group = self.output_weight(), self.pg_collection.tp
        shard = vocabulary_shard(
            num_rows=len(weight), vocab_size=vocab_size, rank=group.rank(), group=group
        )
        return weight, shard


def unwrap(chunk: torch.nn.Module) -> PolicyModel:
    """The policy chunk inside megatron's data-parallel wrapper, if there is one."""
    inner = getattr(chunk, "module", chunk)
    assert isinstance(inner, PolicyModel), f"expected a PolicyModel, got {type(inner).__name__}"
    return inner
