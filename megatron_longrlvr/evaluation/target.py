"""What ``longrlvr evaluate`` is pointed at: a recipe's starting model, or a run's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_longrlvr.checkpoint.manifest import latest
from megatron_longrlvr.checkpoint.store import load_checkpoint
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.parallel.collectives import broadcast_object
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.trainer.assembly import build_learner


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A recipe, and the run that it belongs to if it was found in one."""

    name: str
    """Of the recipe or of its file, for messages."""

    config: TrainConfig
    run_dir: Path | None


def read_target(given: str, overrides: Sequence[str]) -> Target:
    """Read the recipe that ``given``, a run directory or a recipe, stands for.

    Raises:
        ConfigError: There is none, or it is wrong.
    """
    run_dir = Path(given) if (Path(given) / "config.json").is_file() else None
    name = given if run_dir is None else str(run_dir / "config.json")
    return Target(name=name, config=load_config(name, overrides, TrainConfig), run_dir=run_dir)


def load_target(
    config: TrainConfig, run_dir: Path | None, groups: ProcessGroups
) -> tuple[Learner, str]:
    """Build the policy and bring it to the run's newest checkpoint; every rank calls this.

    Returns:
        The learner, and what it is in words: the checkpoint, or the start.

    Raises:
        CheckpointError: The run has no whole checkpoint.
    """
    learner = build_learner(config, groups)
    if run_dir is None:
        return learner, f"the start {config.model.path}"
    # Asked once: a run that goes on may save another one while the ranks look.
    found = latest(run_dir) if groups.rank == 0 else None
    checkpoint = broadcast_object(found, groups.world)
    if checkpoint is None:
        raise CheckpointError(f"{run_dir} has no whole checkpoint; set trainer.save_every")
    load_checkpoint(checkpoint.directory, learner)
    return learner, str(checkpoint.directory)
