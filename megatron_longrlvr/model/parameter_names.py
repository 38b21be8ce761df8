"""One name for a parameter of a layer, whichever modules compute it.

The weight table speaks of megatron-core's own modules. Transformer Engine's hold the norm in front
of a matrix product together with it, and the matrices of all experts of a rank in one module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_FUSED_NORMS = {
    "self_attention.linear_qkv.layer_norm_weight": "input_layernorm.weight",
    "mlp.linear_fc1.layer_norm_weight": "pre_mlp_layernorm.weight",
}
_LOCAL_EXPERT = re.compile(r"mlp\.experts\.local_experts\.(\d+)\.(.*)")
_GROUPED_EXPERT = re.compile(r"mlp\.experts\.(linear_fc[12])\.weight(\d+)")


def has_experts(name: str) -> bool:
    """Whether a parameter, by its name within its layer, belongs to an expert."""
    return name.startswith("mlp.experts.")


def table_name(name: str, experts: Sequence[int] = ()) -> str:
    """Name within a layer that the weight table has for a parameter.

    Args:
        name: Within its layer, as the module has it.
        experts: Which of the layer's experts this rank holds, in its order; read for the
            parameters of experts alone.
    """
    if name in _FUSED_NORMS:
        return _FUSED_NORMS[name]
    if match := _LOCAL_EXPERT.fullmatch(name):
        return f"mlp.experts.local_experts.{experts[int(match[1])]}.{match[2]}"
    if match := _GROUPED_EXPERT.fullmatch(name):
        return f"mlp.experts.local_experts.{experts[int(match[2])]}.{match[1]}.weight"
    return name
