"""Save a run into a checkpoint directory, and carry on from one.

    learner/                weights and optimizer (see sharded.py for what is read through pickle)
    critic/                 likewise, in runs with a critic
    random/rank_00000...    random states of every rank, safetensors
    rollouts/replica_00000  samples that later steps learn from, where the run samples ahead
    state.json              position of the run
    manifest.json           written last, with sizes and hashes of the others

Every rank calls these functions alike.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from megatron_longrlvr.checkpoint.background import read_hashes
from megatron_longrlvr.checkpoint.manifest import (
    Checkpoint,
    Manifest,
    check_hashes,
    checkpoint_directory,
    file_sizes,
    list_checkpoints,
    partial_directory,
    publish,
    read_checkpoint,
    sha256,
    write_manifest,
)
from megatron_longrlvr.checkpoint.random_state import load_random_state, save_random_state
from megatron_longrlvr.checkpoint.rollouts import (
    StoredRollouts,
    load_rollouts,
    save_rollouts,
)
from megatron_longrlvr.checkpoint.run_state import RunState, read_state, write_state
from megatron_longrlvr.checkpoint.sharded import TraineeWrite, read_trainee
from megatron_longrlvr.checkpoint.weights import WEIGHTS_DIRECTORY
from megatron_longrlvr.errors import CheckpointError, CheckpointWriterKilled
from megatron_longrlvr.model.critic import Critic
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.model.trainee import Trainee
from megatron_longrlvr.observability.provenance import library_versions
from megatron_longrlvr.parallel.collectives import broadcast_object, gather_objects
from megatron_longrlvr.parallel.groups import ProcessGroups
from megatron_longrlvr.stages import PolicyVersion, RolloutBatch

CRITIC_DIRECTORY = "critic"
"""Where a critic's torch_dist files lie within a checkpoint."""

_HASHES = "hashes"
"""Within a checkpoint while it is written: SHA-256 of each rank's files."""

_Value = TypeVar("_Value")

_log = logging.getLogger(__name__)


class PendingCheckpoint:
    """A checkpoint on its way; learner and critic may change as soon as this is made.

    It becomes visible under its name only when ``finish`` has returned, and is lost where the run
    ends before. Every rank makes one, asks it and finishes it alike.
    """

    def __init__(
        self,
        directory: Path,
        learner: Learner,
        state: RunState,
        *,
        critic: Critic | None = None,
        config_fingerprint: str,
        metrics: Mapping[str, float] | None = None,
        rollouts: Sequence[RolloutBatch] = (),
    ) -> None:
        """Start writing.

        Args:
            directory: As :func:`~megatron_longrlvr.checkpoint.manifest.checkpoint_directory` names
                it; on a file system that all ranks share. An older one of that name is replaced.
            learner: Between two steps.
            state: Position of the run, the same on every rank.
            critic: Of the run, where it has one.
            config_fingerprint: Of the recipe, for whoever resumes.
            metrics: Held-out ones of the policy as it is, where it was measured.
            rollouts: This replica's samples of steps to come; of as many steps on every rank.

        Raises:
            CheckpointError: The disk has too little space, or some rank could not write.
        """
        assert state.policy_version == learner.version, "state and learner are of different steps"
        assert state.critic_version == (critic.version if critic else 0), "of another critic"
        assert directory.name == checkpoint_directory(Path(), state.step).name, "misnamed"
        self._groups, self._directory = learner.policy.groups, directory
        self._partial = partial_directory(directory)
        _on_first_rank(self._groups, lambda: _clear(self._partial))
        # The small files first: where one cannot be written, no process is writing the large ones.
        _on_every_rank(self._groups, lambda: save_random_state(self._partial, self._groups.rank))
        if rollouts:
            _on_every_rank(self._groups, lambda: self._save_rollouts(rollouts))
        _on_first_rank(self._groups, lambda: write_state(self._partial, state))
        self._writes: list[TraineeWrite] = []
        self._begin(WEIGHTS_DIRECTORY, learner)
        if critic is not None:
            with critic.present():
                self._begin(CRITIC_DIRECTORY, critic)
        self._manifest = _manifest(learner, state, config_fingerprint, metrics or {})

    def _begin(self, name: str, trainee: Trainee) -> None:
        directory = self._partial / name
        _on_first_rank(self._groups, lambda: directory.mkdir(exist_ok=True))
        hashes = self._partial / _HASHES / f"{name}_{self._groups.rank:05d}.json"
        after = self._writes[-1] if self._writes else None
        self._writes.append(TraineeWrite(directory, trainee, hashes=hashes, after=after))

    def _save_rollouts(self, rollouts: Sequence[RolloutBatch]) -> None:
        groups = self._groups
        if groups.tp_rank == groups.cp_rank == groups.pp_rank == 0:  # the others have the same
            save_rollouts(self._partial, groups.dp_rank, rollouts)

    @property
    def is_written(self) -> bool:
        """Whether this rank's files are written; ``finish`` then waits for the other ranks only."""
        return all(write.is_written for write in self._writes)

    def finish(self) -> Checkpoint:
        """Wait for the files, write the manifest and give the directory its name. Collective.

        Raises:
            CheckpointWriterKilled: Some rank's writer was killed; nothing is left of its save.
            CheckpointError: Some rank could not write; earlier checkpoints are untouched.
        """
        try:
            for write in self._writes:
                _on_every_rank(self._groups, write.wait)
        except CheckpointWriterKilled:
            self._discard()
            raise
        for write in self._writes:
            write.finish()

        def complete() -> Checkpoint:
            hashes = _take_hashes(self._partial)
            manifest = replace(
                self._manifest, bytes_by_file=file_sizes(self._partial), sha256_by_file=hashes
            )
            write_manifest(self._partial, manifest)
            publish(self._partial, self._directory)
            return Checkpoint(directory=self._directory, manifest=manifest)

        return _on_first_rank(self._groups, complete)

    def _discard(self) -> None:
        for write in self._writes:
            with suppress(CheckpointError):
                write.wait()
        # Where a rank has written, megatron-core keeps the answer, for the next save to find it.
        for write in self._writes:
            with suppress(CheckpointError):
                write.finish()
        _on_first_rank(self._groups, lambda: shutil.rmtree(self._partial))


def save_checkpoint(
    directory: Path,
    learner: Learner,
    state: RunState,
    *,
    critic: Critic | None = None,
    config_fingerprint: str,
) -> Checkpoint:
    """Write a checkpoint and wait for it; see :class:`PendingCheckpoint`."""
    return PendingCheckpoint(
        directory, learner, state, critic=critic, config_fingerprint=config_fingerprint
    ).finish()


def find_intact(run_dir: Path, groups: ProcessGroups) -> Checkpoint | None:
    """The newest checkpoint whose files hold what was saved; every rank calls this.

    The ranks share out the reading. What is damaged is named in a warning and skipped.
    """
    found = _on_first_rank(groups, lambda: list_checkpoints(run_dir))
    for checkpoint in reversed(found):
        names = sorted(checkpoint.manifest.sha256_by_file)
        own = names[groups.rank :: groups.layout.world_size]
        try:
            _on_every_rank(groups, functools.partial(check_hashes, checkpoint, own))
        except CheckpointError as error:
            if groups.rank == 0:
                _log.warning("skipping checkpoint %s: %s", checkpoint.directory, error)
            continue
        return checkpoint
    return None


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


def load_unused(checkpoint: Checkpoint, groups: ProcessGroups) -> Sequence[StoredRollouts]:
    """This replica's samples of steps to come; none where another layout saved them.

    Raises:
        CheckpointError: The file cannot be read.
    """
    if checkpoint.manifest.layout != asdict(groups.layout):
        return ()
    return load_rollouts(checkpoint.directory, groups.dp_rank)


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


def _take_hashes(partial: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint; what the ranks have left is removed."""
    told = read_hashes(partial / _HASHES)
    shutil.rmtree(partial / _HASHES, ignore_errors=True)
    return {
        name: told[path] if (path := partial / name) in told else sha256(path)
        for name in file_sizes(partial)
    }


def _manifest(
    learner: Learner, state: RunState, config_fingerprint: str, metrics: Mapping[str, float]
) -> Manifest:
    return Manifest(
        step=state.step,
        policy_version=state.policy_version,
        layout=asdict(learner.policy.groups.layout),
        dtype=learner.policy.model.dtype,
        is_optimizer_distributed=learner.settings.optimizer.distributed,
        config_fingerprint=config_fingerprint,
        bytes_by_file={},
        metrics=metrics,
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
    value: _Value | None = None
    failure: CheckpointError | None = None
    if groups.rank == 0:
        value, failure = _attempt(action)
    # All ranks come here, whatever happened on the first one, and none goes on before it is done.
    value, failure = broadcast_object((value, failure), groups.world)
    if failure is not None:
        raise failure
    return value  # type: ignore[return-value] # None only where the action returns None


def _on_every_rank(groups: ProcessGroups, action: Callable[[], None]) -> None:
    """Run ``action`` on all ranks; one failure fails them all."""
    _, failure = _attempt(action)
    failures = gather_objects(failure, groups.world)  # reached by all ranks, failed or not
    for rank, found in enumerate(failures):
        if found is not None:
            raise type(found)(f"rank {rank}: {found}")


def _attempt(action: Callable[[], _Value]) -> tuple[_Value | None, CheckpointError | None]:
    try:
        return action(), None
    except CheckpointError as error:
        return None, error
    except (OSError, ValueError) as error:
        return None, CheckpointError(repr(error))
