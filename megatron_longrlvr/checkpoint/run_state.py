"""``state.json``: what a run needs to go on, besides weights, optimizer and random states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.files import write_atomically

STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """Position of a run between two training steps; the same on every rank."""

    step: int
    """Training steps done. Metrics of later steps are measured again."""

    policy_version: int
    """Optimizer steps in the weights."""

    prompt_cursor: int
    """Prompts taken from the training set so far."""

    critic_version: int = 0
    """Optimizer steps in the critic's weights; 0 in runs without one."""

    extra: Mapping[str, int | float | str] = field(default_factory=dict)
    """Further positions, of whoever has one to keep."""


def write_state(directory: Path, state: RunState) -> None:
    """Write ``state.json`` into a checkpoint.

    Raises:
        ValueError: A value is NaN or infinite, which JSON does not have.
    """
    text = json.dumps(asdict(state), indent=2, allow_nan=False)
    write_atomically(directory / STATE_FILE, text + "\n")


def read_state(directory: Path) -> RunState:
    """Read ``state.json`` of a checkpoint.

    Raises:
        CheckpointError: The file is absent or is not a run state.
    """
    path = directory / STATE_FILE
    try:
        return RunState(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is not a run state: {error}") from error
