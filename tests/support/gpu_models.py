"""Llama models for checks on GPUs, from tiny to one that fills a GPU; their weights are random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from megatron_longrlvr.model.initialization import random_hf_tensors
from megatron_longrlvr.model.rope_spec import RopeSpec
from megatron_longrlvr.model.spec import ModelSpec, to_hf_config


def _llama(
    *, hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, tie: bool
) -> ModelSpec:
    return ModelSpec(
        architecture="LlamaForCausalLM",
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=hidden // heads,
        norm_eps=1e-5,
        tie_word_embeddings=tie,
        qkv_bias=False,
        qk_norm=False,
        rope=RopeSpec(kind="default", theta=5e5),
        max_position_embeddings=2**18,
        initializer_range=0.02,
    )


# Widths that every FP8 recipe takes: multiples of 128.
TINY = _llama(hidden=256, ffn=512, layers=4, heads=4, kv_heads=2, vocab=512, tie=False)
ONE_B = _llama(hidden=2048, ffn=8192, layers=16, heads=32, kv_heads=8, vocab=128256, tie=True)
"""Geometry of Llama-3.2-1B."""

EIGHT_B = _llama(hidden=4096, ffn=14336, layers=32, heads=32, kv_heads=8, vocab=128256, tie=False)
"""Geometry of Llama-3.1-8B."""

LARGEST_FIRST = {
    f"8B with {layers} of its 32 layers": replace(EIGHT_B, num_layers=layers)
    for layers in range(32, 0, -2)
}


def save_model(folder: Path, spec: ModelSpec) -> Path:
    """Write a Hugging Face folder without a tokenizer."""
    (folder / "config.json").write_text(json.dumps(to_hf_config(spec)))
    save_file(dict(random_hf_tensors(spec, seed=0)), folder / "model.safetensors")
    return folder
