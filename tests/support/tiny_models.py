"""Tiny random Hugging Face models, one per family, written to a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

VOCAB_SIZE = 99  # odd: tensor parallelism has to pad it
DENSE_FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
MIXTURES = ("mixtral", "qwen3_moe")
FAMILIES = (*DENSE_FAMILIES, *MIXTURES)
_CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
}
_OWN_SETTINGS = {
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": False,
        "mlp_only_layers": [1],  # of a mixture's layers, some have no experts
    },
}


def tiny_model(
    family: str,
    *,
    tie: bool = False,
    num_layers: int = 4,
    rope: dict | None = None,
    seed: int = 0,
    **settings: object,
) -> PreTrainedModel:
    """A random fp32 model whose norms and biases are random too.

    ``settings`` replace those of the family's config.
    """
    common = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,  # not hidden / heads
        "max_position_embeddings": 256,
        "tie_word_embeddings": tie,
        "rms_norm_eps": 1e-6,
        "attn_implementation": "eager",
    }
    if rope is not None:
        common["rope_parameters"] = rope
    if family == "qwen2":
        common.pop("head_dim")  # Qwen2 has none: hidden / heads
    torch.manual_seed(seed)
    make_config, make_model = _CLASSES[family]
    model = make_model(make_config(**{**common, **_OWN_SETTINGS.get(family, {}), **settings}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                center = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(center + 0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model.float().eval()


def tiny_reward_model(family: str, *, num_labels: int = 1, **settings: object) -> PreTrainedModel:
    """A sequence classifier on the body of the family's tiny model, with a random head."""
    body = tiny_model(family, **settings)
    config = body.config
    config.num_labels = num_labels
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(config)
    model.model.load_state_dict(body.model.state_dict())
    with torch.no_grad():
        model.score.weight.copy_(torch.randn_like(model.score.weight) * 0.3)
    return model.float().eval()


def save_tiny_model(
    folder: Path, family: str, *, save_original_format: bool = True, **kwargs: object
) -> PreTrainedModel:
    """Write a tiny model to a folder and return it."""
    model = tiny_model(family, **kwargs)
    model.save_pretrained(folder, save_original_format=save_original_format)
    return model
