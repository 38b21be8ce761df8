"""Build a model: spec + layout + precision -> megatron-core model chunks."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from megatron_longrlvr.config.policy import ModelConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.gpu_libraries import (
    require_transformer_engine,
    use_flash_attention,
)
from megatron_longrlvr.model.layer_specs import block_spec
from megatron_longrlvr.model.mcore import TransformerConfig
from megatron_longrlvr.model.policy_model import PolicyModel
from megatron_longrlvr.model.precision import fp8_options, offload_options
from megatron_longrlvr.model.spec import ModelSpec
from megatron_longrlvr.parallel.device import device
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.parallel.layout import ParallelLayout

_Chunk = TypeVar("_Chunk", bound=PolicyModel)

_FLASH_VERSIONS = {"flash_attention_3": 3, "flash_attention_4": 4}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def transformer_config(
    spec: ModelSpec, layout: ParallelLayout, model: ModelConfig
) -> TransformerConfig:
    """Translate our description into megatron-core's."""
    dtype = DTYPES[model.dtype]
    return TransformerConfig(
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        ffn_hidden_size=spec.intermediate_size,
        num_attention_heads=spec.num_heads,
        num_query_groups=spec.num_kv_heads,
        kv_channels=spec.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=spec.norm_eps,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        add_qkv_bias=spec.qkv_bias,
        qk_layernorm=spec.qk_norm,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        # Kernels that torch.compile makes of SwiGLU and of the addition of residuals.
        bias_dropout_fusion=model.layers == "transformer_engine",
        bias_activation_fusion=model.layers == "transformer_engine",
        masked_softmax_fusion=False,  # of a core attention that is not used
        gradient_accumulation_fusion=False,  # the output layer would need Apex's extension
        # Weights are always filled from Hugging Face tensors, so that they do not depend on
        # the layout; megatron's initialisation is only asked to mark which ones are shards.
        init_method=_leave_as_allocated,
        output_layer_init_method=_leave_as_allocated,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
        context_parallel_size=layout.cp,
        cp_comm_type=model.key_exchange,  # read by Transformer Engine's attention alone
        expert_model_parallel_size=layout.ep,
        sequence_parallel=layout.sequence_parallel,
        # Our losses carry their global denominators: megatron must sum, not average.
        calculate_per_token_loss=True,
        # Packed micro-batches differ in length, so pipeline stages exchange shapes first.
        variable_seq_lengths=layout.pp > 1,
        # Of the dispatchers only this one takes unequal lengths; read by experts alone, but
        # checked for every model.
        moe_token_dispatcher_type="alltoall",
        **_experts(spec, model),
        # megatron-core's batched p2p mixes up the two messages of a pair of ranks on gloo.
        overlap_p2p_comm=layout.vpp > 1,
        batch_p2p_comm=layout.vpp == 1,
        **_recompute(model),
        **fp8_options(model.fp8),
        **offload_options(model.offload),
    )


def build_chunks(
    spec: ModelSpec, groups: ProcessGroups, model: ModelConfig
) -> tuple[PolicyModel, ...]:
    """This rank's pipeline chunks of a policy, with weights yet to be filled in."""
    return build_chunks_of(PolicyModel, spec, groups, model)


def build_chunks_of(
    kind: type[_Chunk], spec: ModelSpec, groups: ProcessGroups, model: ModelConfig
) -> tuple[_Chunk, ...]:
    """This rank's pipeline chunks of a policy or a critic, with weights yet to be filled in.

    Raises:
        ConfigError: A library that ``model`` asks for does not import, or ranks cannot exchange
            the model's heads.
    """
    layout = groups.layout
    _prepare_kernels(spec, layout, model)
    config = transformer_config(spec, layout, model)
    chunks = []
    for chunk in range(layout.vpp):
        vp_stage = chunk if layout.vpp > 1 else None
        is_first = groups.pp_rank == 0 and chunk == 0
        is_last = groups.pp_rank == layout.pp - 1 and chunk == layout.vpp - 1
        built = kind(
            config=config,
            transformer_layer_spec=block_spec(
                spec, config, model, vp_stage=vp_stage, pp_rank=groups.pp_rank
            ),
            vocab_size=spec.padded_vocab_size(layout.tp),
            max_sequence_length=spec.max_position_embeddings,
            pre_process=is_first,
            post_process=is_last,
            position_embedding_type="none",
            share_embeddings_and_output_weights=spec.tie_word_embeddings,
            pg_collection=groups.megatron,
            vp_stage=vp_stage,
        )
        chunks.append(built.to(device()))
    return tuple(chunks)


def _prepare_kernels(spec: ModelSpec, layout: ParallelLayout, model: ModelConfig) -> None:
    # FP8 and offloading ask for Transformer Engine too, by the recipe's own checks.
    if model.layers == "transformer_engine":
        require_transformer_engine("model.layers=transformer_engine")
    if model.attention == "transformer_engine":
        require_transformer_engine("model.attention=transformer_engine")
    if model.attention in _FLASH_VERSIONS:
        use_flash_attention(_FLASH_VERSIONS[model.attention], f"model.attention={model.attention}")
    heads = spec.num_kv_heads // layout.tp
    if model.key_exchange == "a2a" and heads % layout.cp:
        raise ConfigError(
            f"model.key_exchange=a2a deals the {heads} key/value heads of a tensor-parallel rank "
            f"to layout.cp={layout.cp} ranks, which does not come out even; use p2p or all_gather"
        )


def _leave_as_allocated(weight: Tensor) -> Tensor:
    return weight


def _experts(spec: ModelSpec, model: ModelConfig) -> dict[str, object]:
    experts = spec.experts
    if experts is None:
        return {}
    has_dense_layers = len(experts.dense_layers) > 0
    pattern = [int(spec.has_experts(layer)) for layer in range(spec.num_layers)]
    return {
        "num_moe_experts": experts.num_experts,
        "moe_ffn_hidden_size": experts.intermediate_size,
        "moe_router_topk": experts.num_per_token,
        # The softmax over all experts, whose chosen weights do not sum to 1, or over the chosen.
        "moe_router_pre_softmax": not experts.normalize_weights,
        # bf16 logits of neighbouring experts would tie and choose differently in every layout.
        "moe_router_dtype": model.router.dtype,
        # megatron-core's own losses are of a micro-batch: ours are added by routing.py, with these
        # coefficients.
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": model.router.balance_coefficient,
        "moe_z_loss_coeff": model.router.z_coefficient,
        "moe_grouped_gemm": model.layers == "transformer_engine",
        # A list makes checkpoints name every layer, which unequal layers need.
        "moe_layer_freq": pattern if has_dense_layers else 1,
    }


def _recompute(model: ModelConfig) -> dict[str, object]:
    if model.recompute == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    if model.recompute == "selective":
        return {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    return {}
