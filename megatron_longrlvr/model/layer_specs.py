"""What a transformer layer is made of: megatron-core's own modules, or Transformer Engine's.

Both get a core attention that applies rotary embedding by the plan; it attends by the plan, too, or
with Transformer Engine. Without Transformer Engine the norms are ours too; with it, a norm and the
product behind it are one module.
"""

from __future__ import annotations

from collections.abc import Callable

from megatron_longrlvr.config.policy import ComputeConfig
from megatron_longrlvr.model.attention import PlannedAttention
from megatron_longrlvr.model.fused_attention import FusedAttention
from megatron_longrlvr.model.mcore import (
    ModuleSpec,
    TENorm,
    TransformerBlockSubmodules,
    TransformerConfig,
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
    get_num_layers_to_build,
    get_transformer_layer_offset,
    set_router,
)
from megatron_longrlvr.model.norm import RMSNorm
from megatron_longrlvr.model.routing import MixtureLayer, PolicyRouter
from megatron_longrlvr.model.spec import ModelSpec


def block_spec(
    spec: ModelSpec,
    config: TransformerConfig,
    model: ComputeConfig,
    *,
    vp_stage: int | None,
    pp_rank: int,
) -> TransformerBlockSubmodules:
    """Specs of the layers that one pipeline chunk holds.

    Args:
        spec: The model.
        config: The same in megatron-core's words.
        model: Whose modules are asked for.
        vp_stage: Which chunk of its rank; None where a rank has one.
        pp_rank: Which stage of the pipeline.
    """
    first = get_transformer_layer_offset(config, vp_stage=vp_stage, pp_rank=pp_rank)
    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage, pp_rank=pp_rank)
    make, norm = _KINDS[model.layers]
    kinds = {has_experts: make(config, has_experts) for has_experts in (False, True)}
    if spec.experts is not None:
        kinds[True].module = MixtureLayer
        set_router(kinds[True], PolicyRouter)
    is_fused = model.attention == "transformer_engine"
    for layer in kinds.values():
        attention = layer.submodules.self_attention.submodules
        attention.core_attention = FusedAttention if is_fused else PlannedAttention
    specs = [kinds[spec.has_experts(layer)] for layer in range(first, first + num_layers)]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=norm)


def _local(config: TransformerConfig, has_experts: bool) -> ModuleSpec:
    layer = get_gpt_layer_local_spec(
        num_experts=config.num_moe_experts if has_experts else None,
        normalization=config.normalization,
        qk_layernorm=config.qk_layernorm,
    )
    parts = layer.submodules
    parts.input_layernorm = RMSNorm
    parts.pre_mlp_layernorm = RMSNorm
    attention = parts.self_attention.submodules
    if config.qk_layernorm:
        attention.q_layernorm = RMSNorm
        attention.k_layernorm = RMSNorm
    return layer


def _transformer_engine(config: TransformerConfig, has_experts: bool) -> ModuleSpec:
    return get_gpt_layer_with_transformer_engine_spec(
        num_experts=config.num_moe_experts if has_experts else None,
        moe_grouped_gemm=config.moe_grouped_gemm,
        qk_layernorm=config.qk_layernorm,
    )


_KINDS: dict[str, tuple[Callable[[TransformerConfig, bool], ModuleSpec], type]] = {
    "local": (_local, RMSNorm),
    "transformer_engine": (_transformer_engine, TENorm),
}
