"""Mixtures of experts that know the toy task's words, small enough for whole runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary, write_toy_tokenizer
from tests.support.tiny_models import save_tiny_model

NUM_EXPERTS = 4
# Of the start's own spread (about 0.1): experts differ, and samples are still like the start's.
_NOISE = 0.02


def save_toy_mixture(folder: Path, start: str = "toy_start") -> None:
    """The shipped start as a Mixtral, each expert a noisy copy of its MLP.

    The weights of the two chosen experts sum to 1, so that it answers nearly as the start does.
    """
    source = RECIPES / start
    shutil.copytree(source, folder, dirs_exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    config |= {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": NUM_EXPERTS,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    }
    config.pop("attention_bias")
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    tensors = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        block, _, matrix = name.partition(".mlp.")
        if not matrix:
            tensors[name] = tensor
            continue
        letter = {"gate": "w1", "up": "w3", "down": "w2"}[matrix.partition("_")[0]]
        for expert in range(NUM_EXPERTS):
            copied = tensor + _NOISE * torch.randn_like(tensor)
            tensors[f"{block}.block_sparse_moe.experts.{expert}.{letter}.weight"] = copied
        gate = f"{block}.block_sparse_moe.gate.weight"
        tensors[gate] = 0.2 * torch.randn(NUM_EXPERTS, config["hidden_size"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_random_mixture(folder: Path) -> None:
    """A Qwen3-MoE that has learned nothing, with a layer without experts."""
    save_tiny_model(folder, "qwen3_moe", vocab_size=len(toy_vocabulary()), num_layers=2)
    write_toy_tokenizer(folder)
