"""The model families that are known: what an architecture's name says beyond its config.json.

Defaults are those of transformers for a key that ``config.json`` leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.config.policy import Architecture
from megatron_longrlvr.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNames:
    """What Hugging Face calls the tensors of a layer with experts, relative to the layer."""

    router: str
    expert: str
    """Of one expert's tensor, with places for ``{expert}`` and ``{matrix}``."""

    gate: str
    up: str
    down: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What all models of one architecture share."""

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    head_dim: int | None = None
    """None: hidden size over heads."""

    sliding_window: int | None = None
    window_has_switch: bool = False
    """Whether ``use_sliding_window`` decides if the window is used at all."""

    expert_names: ExpertNames | None = None
    """None where no layer has experts."""


FAMILIES: Mapping[Architecture, Family] = {
    "LlamaForCausalLM": Family(model_type="llama"),
    "MistralForCausalLM": Family(model_type="mistral", sliding_window=4096),
    "MixtralForCausalLM": Family(
        model_type="mixtral",
        norm_eps=1e-5,
        rope_theta=1_000_000.0,
        expert_names=ExpertNames(
            router="block_sparse_moe.gate.weight",
            expert="block_sparse_moe.experts.{expert}.{matrix}.weight",
            gate="w1",
            up="w3",
            down="w2",
        ),
    ),
    "Qwen2ForCausalLM": Family(model_type="qwen2", qkv_bias=True, window_has_switch=True),
    "Qwen3ForCausalLM": Family(
        model_type="qwen3", qk_norm=True, head_dim=128, window_has_switch=True
    ),
    "Qwen3MoeForCausalLM": Family(
        model_type="qwen3_moe",
        qk_norm=True,
        window_has_switch=True,
        expert_names=ExpertNames(
            router="mlp.gate.weight",
            expert="mlp.experts.{expert}.{matrix}.weight",
            gate="gate_proj",
            up="up_proj",
            down="down_proj",
        ),
    ),
}


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Name the family of a ``config.json``.

    Raises:
        ConfigError: It is not a known one.
    """
    named = config.get("architectures")
    for architecture in FAMILIES:
        if named == [architecture]:
            return architecture
    raise ConfigError(f"architectures={named} is not supported; use one of {', '.join(FAMILIES)}")
