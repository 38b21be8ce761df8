"""What a policy's architecture is, read from and written to a Hugging Face ``config.json``.

The families are those of :mod:`megatron_longrlvr.model.family`: Llama, Mistral, Qwen2 (bias on
q, k and v), Qwen3 (RMSNorm on q and k), and the mixtures of experts Mixtral and Qwen3-MoE.
A configuration asking for anything that this package would compute differently is refused by
the name of its key. Dropout settings are not read: a policy is always run without dropout.

This module imports without torch, so that planner, launcher and configuration checks can use it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.config.policy import Architecture, NewModelConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.model.expert_spec import (
    ExpertSpec,
    expert_settings,
    new_experts,
    read_experts,
)
from megatron_longrlvr.model.family import FAMILIES, read_architecture
from megatron_longrlvr.model.rope_spec import RopeSpec, read_rope, rope_scaling, whole_number
from megatron_longrlvr.parallel.layout import ParallelLayout

# How transformers names the two classes of a family.
_LANGUAGE_MODEL, _CLASSIFIER = "ForCausalLM", "ForSequenceClassification"

# What transformers assumes when a config.json leaves the key out, in all families.
_DEFAULT_INITIALIZER_RANGE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """Architecture of a decoder-only policy."""

    architecture: Architecture
    vocab_size: int
    """Rows of the Hugging Face embedding; may exceed the tokenizer's own size."""

    hidden_size: int
    intermediate_size: int
    """Of a layer without experts."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    tie_word_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    """RMSNorm over each head of q and k, before the rotation."""

    rope: RopeSpec
    max_position_embeddings: int
    """Longest sequence that is computed as the model means it."""

    initializer_range: float
    """Standard deviation of freshly drawn weights."""

    experts: ExpertSpec | None = None
    """None where every layer has a plain MLP."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_key_value_heads={self.num_kv_heads} does not divide "
                f"num_attention_heads={self.num_heads}"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embeddings need pairs")
        if self.architecture == "MixtralForCausalLM" and (
            self.experts is None or self.experts.intermediate_size != self.intermediate_size
        ):
            raise ConfigError(
                f"intermediate_size={self.intermediate_size} is that of the experts in "
                f"MixtralForCausalLM, got {self.experts}"
            )

    def has_experts(self, layer: int) -> bool:
        """Whether a layer, counted from 0, has experts in place of one MLP."""
        return self.experts is not None and layer not in self.experts.dense_layers

    @property
    def feed_forward_widths(self) -> tuple[int, ...]:
        """Inner widths of MLPs, where some layers have one, and of experts."""
        if self.experts is None:
            return (self.intermediate_size,)
        dense = (self.intermediate_size,) if self.experts.dense_layers else ()
        return (*dense, self.experts.intermediate_size)

    def check_layout(self, layout: ParallelLayout) -> None:
        """Refuse a layout that cannot cut this model into equal parts.

        Raises:
            ConfigError: Names the key.
        """
        layout.check_model(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            feed_forward_widths=self.feed_forward_widths,
            num_experts=None if self.experts is None else self.experts.num_experts,
        )

    def padded_vocab_size(self, tp: int) -> int:
        """Smallest multiple of ``tp`` that holds the vocabulary."""
        return math.ceil(self.vocab_size / tp) * tp


def spec_from_new(new: NewModelConfig, vocab_size: int) -> ModelSpec:
    """Describe the model that a recipe starts from random weights."""
    family = FAMILIES[new.architecture]
    return ModelSpec(
        architecture=new.architecture,
        vocab_size=vocab_size,
        hidden_size=new.hidden_size,
        intermediate_size=new.intermediate_size,
        num_layers=new.num_hidden_layers,
        num_heads=new.num_attention_heads,
        num_kv_heads=new.num_key_value_heads,
        head_dim=new.head_dim,
        norm_eps=family.norm_eps,
        tie_word_embeddings=new.tie_word_embeddings,
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope=RopeSpec(kind="default", theta=new.rope_theta),
        max_position_embeddings=new.max_position_embeddings,
        initializer_range=new.initializer_range,
        experts=None if new.experts is None else new_experts(new.experts),
    )


def read_model_spec(folder: Path) -> ModelSpec:
    """Read the architecture from ``folder/config.json``.

    The only attention computed here is plain causal attention. Models with
    ``dual_chunk_attention_config`` (the 1M-token Qwen2.5), and Mistral and Mixtral with a
    ``sliding_window``, are therefore read with ``max_position_embeddings`` lowered to the
    positions at which their scheme still equals it, and written back with that limit.

    Raises:
        ConfigError: The file is absent or no JSON, lacks a needed key, or asks for something
            that is not supported; names file and key.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; model.path must be a model folder")
    return spec_from_hf_config(path)


def spec_from_hf_config(path: Path) -> ModelSpec:
    """As :func:`read_model_spec`, from a file of any name.

    Raises:
        ConfigError: As there.
    """
    return _understood(path, _spec_from_hf_config)


def read_critic_spec(folder: Path) -> ModelSpec:
    """Read what a critic starts from: a model as :func:`read_model_spec`, or a reward model.

    A reward model is a sequence classifier with one label (``LlamaForSequenceClassification``); it
    is described as the language model that shares its body.

    Raises:
        ConfigError: As for :func:`read_model_spec`, or the classifier has several labels.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; critic.path must be a model folder")
    return _understood(path, lambda config: _spec_from_hf_config(_as_language_model(config)))


def to_hf_config(spec: ModelSpec) -> dict[str, Any]:
    """Build the ``config.json`` of a model, readable by transformers 4 and 5.

    Token ids and dtype are not part of the architecture; the writer of a folder adds them.
    """
    family = FAMILIES[spec.architecture]
    scaling = rope_scaling(spec.rope)
    config: dict[str, Any] = {
        "architectures": [spec.architecture],
        "model_type": family.model_type,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "max_position_embeddings": spec.max_position_embeddings,
        "initializer_range": spec.initializer_range,
        "attention_dropout": 0.0,
        "use_cache": True,
        "rope_theta": spec.rope.theta,
        "rope_scaling": scaling,
        "rope_parameters": {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": spec.rope.theta,
        },
    }
    if not spec.qkv_bias:
        config["attention_bias"] = False
    if family.window_has_switch:
        config["use_sliding_window"] = False
    elif spec.architecture != "LlamaForCausalLM":
        config["sliding_window"] = None
    if spec.experts is not None:
        config |= expert_settings(spec.architecture, spec.experts)
    return config


def _understood(path: Path, understand: Callable[[Mapping[str, Any]], ModelSpec]) -> ModelSpec:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    try:
        return understand(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _as_language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``config.json`` of the language model that a reward model was made of."""
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    if not named.endswith(_CLASSIFIER):
        return config
    labels = config.get("id2label", {})
    if len(labels) > 1:
        raise ConfigError(f"id2label has {len(labels)} labels; a critic's head has one")
    return {**config, "architectures": [named.removesuffix(_CLASSIFIER) + _LANGUAGE_MODEL]}


def _spec_from_hf_config(config: Mapping[str, Any]) -> ModelSpec:
    architecture = read_architecture(config)
    family = FAMILIES[architecture]
    _refuse_unsupported(config, architecture)
    num_heads = whole_number(config, "num_attention_heads")
    num_layers = whole_number(config, "num_hidden_layers")
    hidden_size = whole_number(config, "hidden_size")
    if config.get("num_key_value_heads") is None and architecture == "LlamaForCausalLM":
        num_kv_heads = num_heads  # Llama 1 has no such key
    else:
        num_kv_heads = whole_number(config, "num_key_value_heads")
    return ModelSpec(
        architecture=architecture,
        vocab_size=whole_number(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=whole_number(config, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=config.get("head_dim") or family.head_dim or hidden_size // num_heads,
        norm_eps=float(config.get("rms_norm_eps", family.norm_eps)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope=read_rope(config, default_theta=family.rope_theta),
        max_position_embeddings=_max_positions(config, architecture),
        initializer_range=float(config.get("initializer_range", _DEFAULT_INITIALIZER_RANGE)),
        experts=read_experts(architecture, config, num_layers=num_layers),
    )


def _refuse_unsupported(config: Mapping[str, Any], architecture: Architecture) -> None:
    for key, expected in (("hidden_act", "silu"), ("quantization_config", None)):
        if config.get(key, expected) != expected:
            raise ConfigError(f"{key}={config[key]} is not supported; use {expected}")
    # attention_bias puts a bias on the output projection too, which Qwen2 does not have.
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise ConfigError(f"{key}={config[key]} is not supported; use false")
    if config.get("partial_rotary_factor") not in (None, 1.0):
        raise ConfigError(
            f"partial_rotary_factor={config['partial_rotary_factor']} is not supported; use 1.0"
        )
    if _has_sliding_layer(config, architecture):
        raise ConfigError(
            f"sliding_window={config['sliding_window']} is active and not supported; "
            "set use_sliding_window to false"
        )


def _has_sliding_layer(config: Mapping[str, Any], architecture: Architecture) -> bool:
    """Tell whether any layer's window is shorter than the positions that are read."""
    window = config.get("sliding_window")
    if window is None or window >= _max_positions(config, architecture):
        return False
    if not FAMILIES[architecture].window_has_switch:
        return True
    if not config.get("use_sliding_window", False):
        return False
    if architecture == "Qwen3MoeForCausalLM":
        return True  # all of its layers
    layer_types = config.get("layer_types")
    if layer_types is not None:
        return "sliding_attention" in layer_types
    # transformers: layers from max_window_layers on slide.
    return int(config.get("max_window_layers", 0)) < whole_number(config, "num_hidden_layers")


def _max_positions(config: Mapping[str, Any], architecture: Architecture) -> int:
    stated = whole_number(config, "max_position_embeddings")
    if architecture in ("MistralForCausalLM", "MixtralForCausalLM"):
        # A token sees itself and the window - 1 tokens before it.
        window = config.get("sliding_window", FAMILIES[architecture].sliding_window)
        return stated if window is None else min(stated, int(window))
    dual_chunk = config.get("dual_chunk_attention_config")
    if dual_chunk is None:
        return stated
    # Within one chunk, and within the context the model was trained on, dual chunk attention
    # neither remaps positions nor rescales queries.
    one_chunk = whole_number(dual_chunk, "chunk_size") - whole_number(dual_chunk, "local_size")
    trained = dual_chunk.get("original_max_position_embeddings") or stated
    return min(stated, one_chunk, int(trained))
