"""Whole runs on the toy task from the shipped start, inside the ranks of a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_longrlvr.config.load import parse_config
from megatron_longrlvr.config.schema import TrainConfig


def toy_config(run_dir: Path, **changes: Any) -> TrainConfig:
    """A run of a few small steps from the shipped start.

    ``changes`` replace dotted keys, with ``__`` for the dot.
    """
    content: dict[str, Any] = {
        "kind": "train",
        "run": {"name": "toy", "dir": str(run_dir), "seed": 1},
        "model": {"path": "toy_start", "dtype": "fp32"},
        "layout": {},
        "data": {
            "train": {"kind": "toy", "num_chunks": 16, "num_evidence": 4},
            "max_prompt_tokens": 100,
        },
        "rollout": {"prompts_per_step": 4, "group_size": 4, "max_response_tokens": 28},
        "rewards": {"answer": "unordered"},
        "algorithm": {"micro_batch_tokens": 300},
        "optimizer": {"lr": 0.001},
        "trainer": {"steps": 4, "eval_every": 2, "save_every": 2, "tensorboard": False},
        "evaluation": {
            "data": {"kind": "toy", "split": "heldout", "num_chunks": 16, "num_evidence": 4},
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
