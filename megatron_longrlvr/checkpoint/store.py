"""Save a run into a checkpoint directory, and carry on from one.

    learner/                weights and optimizer (see sharded.py for what is read through pickle)
    critic/                 likewise, in runs with a critic
    random/rank_00000...    random states of every rank, safetensors
    state.json              position of the run
    manifest.json           written last

Every rank calls these functions alike.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from megatron_longrlvr.checkpoint.manifest import (
    Checkpoint,
    Manifest,
    checkpoint_directory,
    file_sizes,
    partial_directory,
    publish,
    read_checkpoint,
    write_manifest,
)
from megatron_longrlvr.checkpoint.random_state import load_random_state, save_random_state
from megatron_longrlvr.checkpoint.run_state import RunState, read_state, write_state
from megatron_longrlvr.checkpoint.sharded import read_trainee, write_trainee
from megatron_longrlvr.checkpoint.weights import WEIGHTS_DIRECTORY
from megatron_longrlvr.errors import CheckpointError
from megatron_longrlvr.model.critic import Critic
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.observability.provenance import library_versions
from megatron_longrlvr.parallel.collectives import broadcast_object, gather_objects
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import PolicyVersion

CRITIC_DIRECTORY = "critic"
"""Where a critic's torch_dist files lie within a checkpoint."""

_Value = TypeVar("_Value")

_log = logging.getLogger(__name__)


def save_checkpoint(
    directory: Path,
    learner: Learner,
    state: RunState,
    *,
    critic: Critic | None = None,
    config_fingerprint: str,
) -> Checkpoint:
    """Write a checkpoint; it becomes visible under ``directory`` only when it is whole.

    Args:
        directory: As :func:`~megatron_longrlvr.checkpoint.manifest.checkpoint_directory` names it;
            on a file system that all ranks share. An older one of that name is replaced.
        learner: Between two steps.
        state: Position of the run, the same on every rank.
        critic: Of the run, where it has one.
        config_fingerprint: Of the recipe, for whoever resumes.

    Raises:
        CheckpointError: Some rank could not write; earlier checkpoints are untouched.
    """
    assert state.policy_version == learner.version, "state and learner are of different steps"
    assert state.critic_version == (critic.version if critic else 0), "state is of another critic"
    assert directory.name == checkpoint_directory(Path(), state.step).name, "misnamed checkpoint"
    groups, partial = learner.policy.groups, partial_directory(directory)
    _on_first_rank(groups, lambda: _clear(partial))
    write_trainee(partial / WEIGHTS_DIRECTORY, learner)
    if critic is not None:
        _on_first_rank(groups, (partial / CRITIC_DIRECTORY).mkdir)
        write_trainee(partial / CRITIC_DIRECTORY, critic)
    _on_every_rank(groups, lambda: save_random_state(partial, groups.rank))

    def finish() -> Checkpoint:
        write_state(partial, state)
        manifest = _manifest(learner, state, config_fingerprint, file_sizes(partial))
        write_manifest(partial, manifest)
        publish(partial, directory)
        return Checkpoint(directory=directory, manifest=manifest)

    return _on_first_rank(groups, finish)


def load_checkpoint(directory: Path, learner: Learner, *, critic: Critic | None = None) -> RunState:
    """Bring a learner, and a critic, of any layout, to the state that was saved.

    Random states come back where the layout is the same; another one keeps those it was seeded
    with.

    Raises:
        CheckpointError: The checkpoint is not whole or does not fit the learner; names the file,
            tensor or setting. The learner must not be used afterwards.
    """
    groups = learner.policy.groups
    # One rank looks at the files: thousands asking for the same sizes would swamp the file system.
    checkpoint = _on_first_rank(groups, lambda: read_checkpoint(directory))
    state = _on_first_rank(groups, lambda: read_state(directory))
    _check_kind(checkpoint, learner, critic)
    read_trainee(directory / WEIGHTS_DIRECTORY, learner, with_optimizer=state.policy_version > 0)
    learner.version = PolicyVersion(state.policy_version)
    if critic is not None:
        where = directory / CRITIC_DIRECTORY
        read_trainee(where, critic, with_optimizer=state.critic_version > 0)
        critic.version = PolicyVersion(state.critic_version)
    if checkpoint.manifest.layout == asdict(groups.layout):
        _on_every_rank(groups, lambda: load_random_state(directory, groups.rank))
    elif groups.rank == 0:
        _log.info("%s was saved by another layout; random states start anew", directory)
    return state


def _check_kind(checkpoint: Checkpoint, learner: Learner, critic: Critic | None) -> None:
    saved = checkpoint.manifest
    # A checkpoint with a critic serves whoever wants the policy alone.
    if critic is not None and not any(
        name.startswith(f"{CRITIC_DIRECTORY}/") for name in saved.bytes_by_file
    ):
        raise CheckpointError(f"{checkpoint.directory} holds no critic, which this run needs")
    running = {
        "model.dtype": (saved.dtype, learner.policy.model.dtype),
        "optimizer.distributed": (
            saved.is_optimizer_distributed,
            learner.settings.optimizer.distributed,
        ),
    }
    for key, (theirs, ours) in running.items():
        if theirs != ours:
            raise CheckpointError(
                f"{checkpoint.directory} was saved with {key}={theirs} and this run has "
                f"{key}={ours}; set it back to resume"
            )


def _manifest(
    learner: Learner, state: RunState, config_fingerprint: str, bytes_by_file: dict[str, int]
) -> Manifest:
    return Manifest(
        step=state.step,
        policy_version=state.policy_version,
        layout=asdict(learner.policy.groups.layout),
        dtype=learner.policy.model.dtype,
        is_optimizer_distributed=learner.settings.optimizer.distributed,
        config_fingerprint=config_fingerprint,
        bytes_by_file=bytes_by_file,
        library_versions=library_versions(),
        saved_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _clear(partial: Path) -> None:
    # Left behind by a save of the same step that was killed.
    if partial.exists():
        shutil.rmtree(partial)
    (partial / WEIGHTS_DIRECTORY).mkdir(parents=True)


def _on_first_rank(groups: ProcessGroups, action: Callable[[], _Value]) -> _Value:
    """Run ``action`` on rank 0; its value, or its failure, reaches every rank."""
    value, failure = None, None
    if groups.rank == 0:
        value, failure = _attempt(action)
    # All ranks come here, whatever happened on the first one, and none goes on before it is done.
    value, failure = broadcast_object((value, failure), groups.world)
    if failure is not None:
        raise CheckpointError(failure)
    return value  # type: ignore[return-value] # None only where the action returns None


def _on_every_rank(groups: ProcessGroups, action: Callable[[], None]) -> None:
    """Run ``action`` on all ranks; one failure fails them all."""
    _, failure = _attempt(action)
    failures = gather_objects(failure, groups.world)  # reached by all ranks, failed or not
    for rank, text in enumerate(failures):
        if text is not None:
            raise CheckpointError(f"rank {rank}: {text}")


def _attempt(action: Callable[[], _Value]) -> tuple[_Value | None, str | None]:
    try:
        return action(), None
    except CheckpointError as error:
        return None, str(error)
    except (OSError, ValueError) as error:
        return None, repr(error)
