"""A small valid recipe of a GRPO run, to be changed one key at a time."""

from copy import deepcopy
from typing import Any

from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.schema import TrainConfig

_RECIPE: dict[str, Any] = {
    "kind": "train",
    "run": {"name": "test", "dir": "runs/test"},
    "model": {"path": "toy_start", "dtype": "fp32"},
    "data": {"train": {"kind": "toy"}, "max_prompt_tokens": 400},
    "rollout": {"prompts_per_step": 8, "group_size": 4, "max_response_tokens": 100},
    "algorithm": {"micro_batch_tokens": 4096},
    "optimizer": {"lr": 1e-3},
    "trainer": {"steps": 10, "eval_every": 5},
    "evaluation": {"data": {"kind": "toy", "split": "heldout"}},
}

NEW_MODEL = {
    "architecture": "LlamaForCausalLM",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}


def recipe(**changes: object) -> dict[str, Any]:
    """The recipe with values set at dotted keys; ``...`` leaves the key out."""
    content = deepcopy(_RECIPE)
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return content


def train_config(**changes: object) -> TrainConfig:
    """The recipe, typed; see :func:`recipe`."""
    return parse_config(recipe(**changes), TrainConfig, origin="test")
