"""FP8 and offloading of a recipe in megatron-core's words, and what FP8 asks of a row.

Pure: what a recipe comes down to can be read and tested where nothing of it can run.
"""

from __future__ import annotations

import math

from megatron_longrlvr.config.acceleration import (
    Fp8Blockwise,
    Fp8Config,
    Fp8Current,
    Fp8Delayed,
    LayerOffload,
    Mxfp8,
    OffloadConfig,
)
from megatron_longrlvr.config.policy import ComputeConfig
from megatron_longrlvr.parallel.layout import ParallelLayout

# TransformerConfig.fp8_recipe
_RECIPES = {
    Fp8Delayed: "delayed",
    Fp8Current: "tensorwise",
    Fp8Blockwise: "blockwise",
    Mxfp8: "mxfp8",
}
# Tokens whose product with a weight Transformer Engine takes in FP8: 16 and 32 are
# megatron-core's get_fp8_align_size; whole blocks of 128 are what blockwise scaling can quantise
# before it is gathered (Float8BlockQuantizer.is_quantizable).
_TOKEN_MULTIPLES = {Fp8Delayed: 16, Fp8Current: 16, Fp8Blockwise: 128, Mxfp8: 32}


def fp8_recipe_name(fp8: Fp8Config | None) -> str | None:
    """What megatron-core calls the recipe; None for bf16."""
    return None if fp8 is None else _RECIPES[type(fp8)]


def fp8_options(fp8: Fp8Config | None) -> dict[str, object]:
    """Arguments of TransformerConfig; none for bf16."""
    if fp8 is None:
        return {}
    options: dict[str, object] = {
        "fp8": fp8.format,
        "fp8_recipe": _RECIPES[type(fp8)],
        "fp8_param": fp8.parameters,
        # Core attention stays as it is: the planned one has no FP8 kernel.
        "fp8_dot_product_attention": False,
        "fp8_multi_head_attention": False,
    }
    if isinstance(fp8, Fp8Delayed):
        return {
            **options,
            "fp8_margin": fp8.margin,
            "fp8_amax_history_len": fp8.history_steps,
            "fp8_amax_compute_algo": fp8.history,
        }
    if fp8.bf16_layers_at_start or fp8.bf16_layers_at_end:
        options |= {
            "first_last_layers_bf16": True,
            "num_layers_at_start_in_bf16": fp8.bf16_layers_at_start,
            "num_layers_at_end_in_bf16": fp8.bf16_layers_at_end,
        }
    return options


def parameter_options(fp8: Fp8Config | None) -> dict[str, bool]:
    """Arguments of DistributedDataParallelConfig about weights that are held in FP8 alone.

    ``reuse_grad_buf_for_mxfp8_param_ag`` is an argument of the optimizer, too: MXFP8 weights
    cannot lie in the buffer that data-parallel ranks gather, so they are gathered in that of the
    gradients.
    """
    is_held = fp8 is not None and fp8.parameters
    return {
        # Weights that are held in FP8 travel between data-parallel ranks so, too.
        "fp8_param_gather": is_held,
        "reuse_grad_buf_for_mxfp8_param_ag": is_held and isinstance(fp8, Mxfp8),
    }


def offload_options(offload: OffloadConfig | None) -> dict[str, object]:
    """Arguments of TransformerConfig; none where nothing is offloaded."""
    if offload is None:
        return {}
    if isinstance(offload, LayerOffload):
        return {
            "cpu_offloading": True,
            "cpu_offloading_num_layers": offload.num_layers,
            "cpu_offloading_activations": True,
            "cpu_offloading_weights": False,
        }
    return {
        "fine_grained_activation_offloading": True,
        "offload_modules": list(offload.modules),
    }


def describe(model: ComputeConfig) -> str:
    """What the layers are computed with, for the log."""
    precision = model.dtype if model.fp8 is None else f"FP8 ({model.fp8.kind})"
    return f"layers of {model.layers} in {precision}, attention of {model.attention}"


def row_multiple(layout: ParallelLayout, fp8: Fp8Config | None) -> int:
    """Number that the tokens of a packed row must divide by, padding included.

    Under FP8 the tokens that one rank holds between the tensor-parallel regions are a multiple of
    what its matrix products take, so those within the regions are too.
    """
    if fp8 is None:
        return layout.sequence_multiple
    shares = layout.cp * (layout.tp if layout.sequence_parallel else 1)
    return math.lcm(layout.sequence_multiple, shares * _TOKEN_MULTIPLES[type(fp8)])
