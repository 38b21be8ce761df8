"""Why the processes of one node, and the whole attempt, ended: records, files and exit codes.

    RUN_DIR/JOBID-RESTART/exit-train-NODE.json   written by the agent of each node
    RUN_DIR/JOBID-RESTART/exit.json              the attempt's, written last

Exit codes of agents and job scripts:

    0    finished
    1    failed: a rank ended with an error
    2    a setting or a file is wrong
    70   the ranks hung and were killed, with their stacks in the log
    73   a rollout server died more often than it may
    74   a rank was killed (SIGKILL: out of memory, or hardware), or two writers of checkpoints were
    75   the judge gave too few verdicts; the ranks have saved a checkpoint and ended
    76   a node vanished without a word
    78   not started: restarts used up, or no progress since the last ones
    79   a node was found unfit before the ranks started
    130  stopped by a signal after the step in progress

``REQUEUE_EXIT_CODE`` is for the parts of a job script among themselves; no job ends with it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Self, TypeVar

from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.files import write_atomically

EXIT_FILE = "exit.json"
REQUEUE_EXIT_CODE = 72


class Cause(Enum):
    """Why something ended, the one that explains the others first."""

    SETTING = "setting"
    HUNG = "hung"
    KILLED = "killed"
    SERVER = "server"
    LOST = "lost"
    REFUSED = "refused"
    UNFIT = "unfit"
    FAILED = "failed"
    UNJUDGED = "unjudged"
    STOPPED = "stopped"
    FOLLOWED = "followed"
    """Ended because another node did."""

    FINISHED = "finished"


EXIT_CODES = {
    Cause.SETTING: 2,
    Cause.HUNG: 70,
    Cause.KILLED: 74,
    Cause.SERVER: 73,
    Cause.LOST: 76,
    Cause.REFUSED: 78,
    Cause.UNFIT: 79,
    Cause.FAILED: 1,
    Cause.UNJUDGED: JudgeUnavailable.EXIT_CODE,
    Cause.STOPPED: 130,
    Cause.FOLLOWED: 1,
    Cause.FINISHED: 0,
}

_PRECEDENCE = list(Cause)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeExit:
    """How the processes of one role on one node ended."""

    role: str
    node: str
    cause: Cause
    detail: str
    """One sentence, with the rank where there is one."""

    at: float
    """Unix time, seconds."""

    @property
    def explains_others(self) -> bool:
        """Whether the other nodes have to end because of it."""
        return self.cause not in {Cause.FINISHED, Cause.STOPPED, Cause.UNJUDGED, Cause.FOLLOWED}


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptExit:
    """Why an attempt ended and what comes next."""

    cause: Cause
    detail: str
    node: str
    """The one that explains the others; empty where none does."""

    is_requeued: bool
    next_step: str
    """In words, for a person."""

    exit_code: int

    @classmethod
    def refused(cls, problem: str) -> Self:
        """The end of an attempt that was not let start."""
        return cls(
            cause=Cause.REFUSED,
            detail=problem,
            node="",
            is_requeued=False,
            next_step="see what stopped the attempts before; the same command tries again",
            exit_code=EXIT_CODES[Cause.REFUSED],
        )


_Exit = TypeVar("_Exit", NodeExit, AttemptExit)


def node_exit_path(attempt: Path, role: str, node: str) -> Path:
    """Where a node's agent says how it ended."""
    return attempt / f"exit-{role}-{node}.json"


def write_node_exit(attempt: Path, reason: NodeExit) -> None:
    """Leave the node's reason for the others and for the job script."""
    content = asdict(reason) | {"cause": reason.cause.value}
    path = node_exit_path(attempt, reason.role, reason.node)
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_node_exits(attempt: Path) -> list[NodeExit]:
    """Reasons that are there so far, in no order."""
    found = (_read(path, NodeExit) for path in sorted(attempt.glob("exit-*.json")))
    return [reason for reason in found if reason is not None]


def write_attempt_exit(attempt: Path, reason: AttemptExit) -> None:
    """Record the end of an attempt."""
    content = asdict(reason) | {"cause": reason.cause.value}
    write_atomically(attempt / EXIT_FILE, json.dumps(content, indent=2) + "\n")


def read_attempt_exit(attempt: Path) -> AttemptExit | None:
    """The attempt's record; None where it still runs or was cut off with its first node."""
    path = attempt / EXIT_FILE
    return _read(path, AttemptExit) if path.is_file() else None


def primary(reasons: list[NodeExit]) -> NodeExit | None:
    """The reason that explains the others; among equals the earliest."""
    if not reasons:
        return None
    return min(reasons, key=lambda reason: (_PRECEDENCE.index(reason.cause), reason.at))


def _read(path: Path, kind: type[_Exit]) -> _Exit | None:
    """A record; None, with a warning, where the file does not hold one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return kind(**(content | {"cause": Cause(content["cause"])}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        _log.warning("passing over %s, which is not a record: %r", path, error)
        return None
