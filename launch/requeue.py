"""Whether an attempt may start, and whether another one follows it.

An attempt is one start of a job. Another one follows after a time limit, a preemption or the loss
of a node (as which a killed or hung rank counts), never after ``scancel``, an error of a rank, a
judge that is away or a wrong setting; not more often than a cap, and not again and again from the
same checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.exit_reason import (
    EXIT_CODES,
    AttemptExit,
    Cause,
    NodeExit,
    primary,
    read_attempt_exit,
    read_node_exits,
)
from megatron_longrlvr.checkpoint.manifest import MANIFEST_FILE
from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.trainer.run_dir import finished_steps

BEGIN_FILE = "begin.json"

_log = logging.getLogger(__name__)

_NODE_LOSSES = frozenset({Cause.HUNG, Cause.KILLED, Cause.SERVER, Cause.LOST, Cause.UNFIT})

# Ends after which the other nodes may not have found the time for a word of their own.
_EXPLAINS_SILENCE = frozenset({Cause.SETTING, Cause.HUNG, Cause.KILLED, Cause.SERVER})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How often a job is started again; see the site profile."""

    max_restarts: int
    max_stalled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Begin:
    """Where an attempt stood when it started."""

    job_id: str
    restarts: int
    """Of this job, before this attempt."""

    checkpoint_step: int
    """Newest whole checkpoint; 0 without one."""

    started: float
    """Unix time, seconds."""


def checkpoint_step(run_dir: Path) -> int:
    """Step of the newest checkpoint with a manifest; 0 without one."""
    manifests = (run_dir / "checkpoints").glob(f"step_*/{MANIFEST_FILE}")
    names = [path.parent.name.removeprefix("step_") for path in manifests]
    return max((int(name) for name in names if name.isdigit()), default=0)


def is_finished(run_dir: Path, steps: int) -> bool:
    """Whether the run has got to ``steps``."""
    return finished_steps(run_dir) >= steps


def write_begin(attempt: Path, begin: Begin) -> None:
    """Record the start of an attempt."""
    write_atomically(attempt / BEGIN_FILE, json.dumps(asdict(begin), indent=2) + "\n")


def read_begin(attempt: Path) -> Begin:
    """What :func:`write_begin` wrote."""
    return Begin(**json.loads((attempt / BEGIN_FILE).read_text(encoding="utf-8")))


def list_attempts(run_dir: Path) -> list[Path]:
    """Directories of the attempts so far, oldest first; one without a readable record is none."""
    begun = {}
    for path in run_dir.glob(f"*/{BEGIN_FILE}"):
        if path.parent.is_symlink():
            continue
        try:
            begun[path.parent] = read_begin(path.parent).started
        except (OSError, ValueError, TypeError) as error:
            _log.warning("passing over %s, which is not a record: %r", path, error)
    return sorted(begun, key=lambda attempt: begun[attempt])


def list_started(base: Path) -> list[Path]:
    """Folders that hold attempts: ``base`` itself, or those of an array's tasks; or none yet."""
    if list_attempts(base):
        return [base]
    return sorted({path.parents[1] for path in base.glob(f"[0-9]*/*/{BEGIN_FILE}")})


def refusal(run_dir: Path, begin: Begin, limits: Limits) -> str | None:
    """Why an attempt must not start; None where it may."""
    if begin.restarts > limits.max_restarts:
        return (
            f"restarted {begin.restarts} times, which is above max_restarts={limits.max_restarts}"
        )
    stalled = _num_stalled(list_attempts(run_dir), begin.checkpoint_step)
    if stalled > limits.max_stalled:
        return (
            f"{stalled} attempts in a row have started from step {begin.checkpoint_step} and saved "
            f"nothing after it, which is above max_stalled={limits.max_stalled}"
        )
    return None


def _num_stalled(attempts: Sequence[Path], step: int) -> int:
    """Attempts at the end of the list that started from ``step`` and were cut off."""
    count = 0
    for attempt in reversed(attempts):
        ended = read_attempt_exit(attempt)
        was_cut_off = ended is None or ended.is_requeued
        if not was_cut_off or read_begin(attempt).checkpoint_step != step:
            break
        count += 1
    return count


def conclude(
    attempt: Path,
    *,
    begin: Begin,
    num_nodes: int,
    limits: Limits,
    is_warned: bool = False,
    is_terminated: bool = False,
) -> AttemptExit:
    """Why an attempt ended and whether another one follows.

    Args:
        attempt: Its directory, with the exit files of its nodes.
        begin: What was recorded at its start.
        num_nodes: Nodes that were to leave an exit file.
        limits: Of the site.
        is_warned: Slurm announced the time limit or a preemption.
        is_terminated: Slurm has ended the job, for its owner or of its own; in the latter case it
            starts it again itself. How the ranks took it says nothing.
    """
    reason = _TERMINATED if is_terminated else _reason(read_node_exits(attempt), num_nodes)
    is_announced = is_warned and not is_terminated and reason.cause is Cause.STOPPED
    wants_more = reason.cause in _NODE_LOSSES or is_announced
    is_capped = begin.restarts >= limits.max_restarts
    if not wants_more:
        next_step = _NEXT_STEP[reason.cause]
    elif is_capped:
        next_step = f"not requeued: max_restarts={limits.max_restarts} are used up"
    else:
        next_step = "requeued; goes on from the last checkpoint"
    return AttemptExit(
        cause=reason.cause,
        detail=reason.detail,
        node=reason.node,
        is_requeued=wants_more and not is_capped,
        next_step=next_step,
        exit_code=EXIT_CODES[reason.cause],
    )


_NEXT_STEP = {
    Cause.SETTING: "correct it and submit again; the message is in the log of that node",
    Cause.FAILED: "see the log of that node; the same command goes on from the last checkpoint",
    Cause.UNJUDGED: "see to the judge's servers; the same command goes on from where it stopped",
    Cause.STOPPED: "stopped on request; the same command goes on",
    Cause.FOLLOWED: "see the log of that node; the same command goes on from the last checkpoint",
    Cause.FINISHED: "nothing is left to do",
}


_TERMINATED = NodeExit(
    role="",
    node="",
    cause=Cause.STOPPED,
    detail="ended by Slurm: cancelled, or to be started again by it",
    at=0.0,
)


def _reason(exits: list[NodeExit], num_nodes: int) -> NodeExit:
    found = primary(exits)
    silent = num_nodes - len(exits)
    is_explained = found is not None and found.cause in _EXPLAINS_SILENCE
    if silent > 0 and not is_explained:
        ended = ", ".join(sorted(reason.node for reason in exits)) or "none"
        return NodeExit(
            role="",
            node="",
            cause=Cause.LOST,
            detail=f"{silent} of {num_nodes} nodes ended without a word (heard from: {ended})",
            at=0.0,
        )
    assert found is not None, "a job has at least one node"
    return found
