"""Whole runs on the toy task from a tiny random start, inside the ranks of a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.policy import NewModelConfig
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.data.toy_tokenizer import toy_vocabulary, write_toy_tokenizer
from megatron_longrlvr.model.hf_writer import save_hf_folder
from megatron_longrlvr.model.initialization import random_hf_tensors
from megatron_longrlvr.model.spec import spec_from_new


def write_random_start(folder: Path) -> Path:
    """A Hugging Face folder with random weights and the toy task's tokenizer."""
    tokenizer = folder.with_name(f"{folder.name}-tokenizer")
    tokenizer.mkdir()
    write_toy_tokenizer(tokenizer)
    new = NewModelConfig(
        architecture="LlamaForCausalLM",
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.2,
        max_position_embeddings=256,
    )
    spec = spec_from_new(new, len(toy_vocabulary()))
    save_hf_folder(folder, random_hf_tensors(spec, seed=0), spec, tokenizer_folder=tokenizer)
    return folder


def toy_config(start: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    """A run of a few small steps; ``changes`` replace dotted keys, ``__`` for the dot."""
    content: dict[str, Any] = {
        "kind": "train",
        "run": {"name": "toy", "dir": str(run_dir), "seed": 1},
        "model": {"path": str(start), "dtype": "fp32"},
        "layout": {},
        "data": {
            "train": {"kind": "toy", "num_chunks": 8, "num_attributes": 2, "num_evidence": 2},
            "max_prompt_tokens": 100,
        },
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_response_tokens": 16},
        "rewards": {"answer": "unordered"},
        "algorithm": {"micro_batch_tokens": 300},
        "optimizer": {"lr": 0.01},
        "trainer": {"steps": 4, "eval_every": 2, "save_every": 2, "tensorboard": False},
        "evaluation": {
            "data": {"kind": "toy", "split": "heldout", "num_chunks": 8, "num_evidence": 2},
            "num_prompts": 6,
        },
    }
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return parse_config(content, TrainConfig, origin="test")
