"""The ``longrlvr plan`` commands that a shipped recipe's head names: one for each prompt length."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.config.load import RECIPES

GPU_RECIPES = (
    "llama31_8b",
    "qwen25_7b_1m",
    "qwen25_14b_1m",
    "llama31_70b",
    "qwen25_72b",
    "qwen3_30b_a3b",
)
"""Shipped recipes that are meant for GPUs."""

_COMMAND = "#   longrlvr plan "


@dataclass(frozen=True, kw_only=True)
class PlanCommand:
    """One of them."""

    recipe: str
    cluster: str
    overrides: tuple[str, ...]


def plan_commands(recipe: str) -> list[PlanCommand]:
    """In the order of the file: for prompts of 64K tokens, then of 128K."""
    lines = iter(Path(RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines())
    commands = []
    for line in lines:
        if not line.startswith(_COMMAND):
            continue
        text = line[1:].strip()
        while text.endswith("\\"):
            text = text[:-1] + next(lines)[1:].strip()
        _, _, name, option, cluster, *overrides = shlex.split(text)
        assert (name, option) == (recipe, "--cluster"), f"{recipe}: cannot read {text!r}"
        commands.append(PlanCommand(recipe=name, cluster=cluster, overrides=tuple(overrides)))
    return commands
