"""Saving a run as it goes: one checkpoint at a time, written while training goes on.

A checkpoint whose writer is killed, as it is where memory runs out, is made again once, while
training waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from megatron_longrlvr.checkpoint.manifest import Best, checkpoint_directory, prune
from megatron_longrlvr.checkpoint.run_state import RunState
from megatron_longrlvr.checkpoint.store import PendingCheckpoint
from megatron_longrlvr.config.training import TrainerConfig
from megatron_longrlvr.errors import CheckpointWriterKilled, ConfigError
from megatron_longrlvr.model.critic import Critic
from megatron_longrlvr.model.learner import Learner
from megatron_longrlvr.observability.heartbeat import beat
from megatron_longrlvr.parallel.collectives import all_ranks_agree
from megatron_longrlvr.stages import RolloutBatch

_log = logging.getLogger(__name__)


class Saver:
    """Writes the checkpoints of a run; every rank calls it alike."""

    def __init__(
        self,
        run_dir: Path,
        learner: Learner,
        trainer: TrainerConfig,
        *,
        critic: Critic | None = None,
        fingerprint: str,
    ) -> None:
        """Save nothing yet.

        Args:
            run_dir: The run's directory.
            learner: What is saved.
            trainer: What stays on disk, and whether training waits.
            critic: Saved along, where there is one.
            fingerprint: Of the configuration.
        """
        self._run_dir = run_dir
        self._learner = learner
        self._trainer = trainer
        self._critic = critic
        self._fingerprint = fingerprint
        self._begin: Callable[[], PendingCheckpoint] | None = None
        """Of the last checkpoint; the same again only while the learner is what it was."""
        self._pending: PendingCheckpoint | None = None
        self.is_owed = False
        """Whether the last checkpoint was lost, so that one is due; the same on every rank."""
        self._blocked_s = 0.0
        self._measured: tuple[int, Mapping[str, float]] = (-1, {})

    def note_measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remember held-out metrics of the policy after ``step``, for a checkpoint of that step.

        Raises:
            ConfigError: The metric that makes the best checkpoint is not among them.
        """
        best = self._trainer.keep_best
        if best is not None and best.metric not in metrics:
            measured = ", ".join(sorted(metrics))
            raise ConfigError(
                f"trainer.keep_best.metric={best.metric} is not measured; choose one of {measured}"
            )
        self._measured = (step, metrics)

    def save(
        self, state: RunState, unused: Callable[[], Sequence[RolloutBatch]] = lambda: ()
    ) -> None:
        """Begin a checkpoint of the learner as it is, once the one before is complete.

        Args:
            state: Position of the run.
            unused: Asked for the samples of steps to come; may wait for them.

        Raises:
            CheckpointError: It, or the one before, could not be written.
        """
        step, metrics = self._measured
        self._settle()

        def begin() -> PendingCheckpoint:
            return PendingCheckpoint(
                checkpoint_directory(self._run_dir, state.step),
                self._learner,
                state,
                critic=self._critic,
                config_fingerprint=self._fingerprint,
                metrics=metrics if step == state.step else {},
                rollouts=unused(),
            )

        self._begin = begin
        if not self.is_owed:
            with self._timed():
                self._pending = begin()
        if self.is_owed or not self._trainer.async_save:
            self.finish()
        beat()

    def poll(self) -> None:
        """Complete the checkpoint under way if all ranks have written it; does not wait.

        Raises:
            CheckpointError: It could not be written.
        """
        if self._pending is None:  # on all ranks alike
            return
        # A rank sees its own files only, and all of them must come to the same answer.
        if all_ranks_agree(self._pending.is_written, self._learner.policy.groups.world):
            self._settle()

    def finish(self) -> None:
        """Wait for the checkpoint under way, if there is one; the learner is what it was.

        Raises:
            CheckpointWriterKilled: Its writer was killed twice.
            CheckpointError: It could not be written.
        """
        self._settle()
        if not self.is_owed:
            return
        assert self._begin is not None, "one was lost"
        with self._timed():
            self._pending = self._begin()
        self._complete()
        self.is_owed = False

    def _settle(self) -> None:
        """Wait for the checkpoint under way; one whose writer was killed is owed."""
        try:
            self._complete()
        except CheckpointWriterKilled as error:
            self.is_owed = True
            if self._learner.policy.groups.rank == 0:
                _log.warning("a checkpoint was lost and will be made again: %s", error)

    def _complete(self) -> None:
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        with self._timed():
            saved = pending.finish()
            if self._learner.policy.groups.rank == 0:
                keep, last_step = self._trainer.keep_checkpoints, saved.manifest.step
                prune(self._run_dir, keep, self._best(), last_step=last_step)
        beat()

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is under way; the same on every rank."""
        return self._pending is not None

    def take_blocked_s(self) -> float:
        """Seconds for which training has waited for checkpoints since this was asked last."""
        blocked_s, self._blocked_s = self._blocked_s, 0.0
        return blocked_s

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._blocked_s += time.perf_counter() - start

    def _best(self) -> Best | None:
        best = self._trainer.keep_best
        if best is None:
            return None
        return Best(metric=best.metric, is_largest=best.mode == "max")
