"""Tiny random Hugging Face models, one per family, written to a folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 99  # odd: tensor parallelism has to pad it
FAMILIES = ("llama", "qwen2", "qwen3")


def tiny_model(
    family: str, *, tie: bool = False, num_layers: int = 4, rope: dict | None = None, seed: int = 0
) -> PreTrainedModel:
    """A random fp32 model whose norms and biases are random too."""
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
    torch.manual_seed(seed)
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common))
    elif family == "qwen2":
        common.pop("head_dim")  # Qwen2 has none: hidden / heads
        model = Qwen2ForCausalLM(Qwen2Config(**common))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**common))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                center = 0.0 if name.endswith("bias") else 1.0
                parameter.copy_(center + 0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    return model.float().eval()


def save_tiny_model(folder: Path, family: str, **kwargs: object) -> PreTrainedModel:
    """Write a tiny model to a folder and return it."""
    model = tiny_model(family, **kwargs)
    model.save_pretrained(folder)
    return model
