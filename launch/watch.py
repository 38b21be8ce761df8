"""Watching the ranks of one node until they have ended, and finding out why.

Looked at in turn, twice a second: has a rank ended, has somebody asked to stop, has another node
ended, does a rank no longer show signs of life.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.exit_reason import Cause, NodeExit, primary, read_node_exits, write_node_exit
from launch.ranks import Rank
from megatron_longrlvr.errors import CheckpointWriterKilled, JudgeUnavailable

STOP_FILE = "stop"
"""In the attempt's directory: the job is to stop after the step in progress."""

STOPPED_RANK_EXIT_CODE = 130  # of `longrlvr train` after a signal
SETTING_RANK_EXIT_CODE = 2

_POLL_S = 0.5
# Stacks of one rank are written before the next one is asked.
_STACKS_S = 1.0

_log = logging.getLogger("agent")


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOptions:
    """How long is waited for what, in seconds; see ``SupervisionSection`` of the site profile."""

    hang_timeout_s: float = 0
    stop_grace_s: float = 240
    kill_grace_s: float = 60


class Watch:
    """The ranks of one node from their start to their end."""

    def __init__(
        self, ranks: Sequence[Rank], options: WatchOptions, *, attempt: Path, role: str, node: str
    ) -> None:
        self._ranks = ranks
        self._options = options
        self._attempt = attempt
        self._role = role
        self._node = node
        self._asked_by: str | None = None
        self._is_stopping = False
        self._deadline: float | None = None
        self._ending: NodeExit | None = None
        self._verdict_by_rank: dict[int, tuple[Cause, str]] = {}

    def ask_to_stop(self, by: str) -> None:
        """Have the ranks stop after the step in progress; may be called from a signal handler."""
        self._asked_by = self._asked_by or by

    def kill_all(self) -> None:
        """End every rank that still runs, and what the ranks have started."""
        for rank in self._ranks:
            rank.kill()

    def run(self) -> NodeExit:
        """Return when no rank runs any more."""
        while True:
            self._collect()
            if all(rank.exit_code is not None for rank in self._ranks):
                return self._conclude()
            if self._deadline is not None and time.monotonic() > self._deadline:
                _log.warning("the ranks did not end in time; killing them")
                self.kill_all()
                return self._conclude()
            self._look_around()
            time.sleep(_POLL_S)

    def _collect(self) -> None:
        """Note how ranks ended, and let the first bad end be the end of all."""
        for rank in self._ranks:
            code = rank.exit_code
            if code is None or rank.number in self._verdict_by_rank:
                continue
            verdict = self._verdict(rank.number, code)
            self._verdict_by_rank[rank.number] = verdict
            if verdict[0] in {Cause.STOPPED, Cause.UNJUDGED}:
                self.ask_to_stop(f"rank {rank.number}")
            elif verdict[0] is not Cause.FINISHED:
                self._end(self._exit(*verdict))

    def _look_around(self) -> None:
        if (self._attempt / STOP_FILE).exists():
            self.ask_to_stop("the job script")
        if self._asked_by is not None and not self._is_stopping:
            self._is_stopping = True
            _log.info("asked to stop by %s", self._asked_by)
            self._terminate(self._options.stop_grace_s)
        others = [
            reason
            for reason in read_node_exits(self._attempt)
            if (reason.node, reason.role) != (self._node, self._role) and reason.explains_others
        ]
        if others:
            self._follow(others)
        hung = self._hung_ranks()
        if hung and self._ending is None:
            self._end_hung(hung)

    def _follow(self, others: list[NodeExit]) -> None:
        if self._ending is not None:
            return
        reason = primary(others)
        assert reason is not None, "called with at least one"
        if reason.cause is Cause.HUNG:
            self._print_stacks()
        where = reason.node if reason.role == self._role else f"{reason.role} on {reason.node}"
        self._end(self._exit(Cause.FOLLOWED, f"{where}: {reason.detail}"))

    def _hung_ranks(self) -> list[int]:
        limit = self._options.hang_timeout_s
        if limit <= 0:
            return []
        return [
            rank.number
            for rank in self._ranks
            if rank.exit_code is None and rank.silent_s() > limit
        ]

    def _end_hung(self, hung: list[int]) -> None:
        shown = ", ".join(map(str, hung))
        detail = f"no sign of life from rank {shown} for {self._options.hang_timeout_s:g} s"
        _log.error("%s", detail)
        self._print_stacks()
        self._end(self._exit(Cause.HUNG, detail))
        # What hangs does not answer a polite request either.
        self._deadline = time.monotonic()

    def _print_stacks(self) -> None:
        for rank in self._ranks:
            _log.error("stacks of rank %d (process %d):", rank.number, rank.process.pid)
            rank.print_stacks()
            time.sleep(_STACKS_S)

    def _end(self, reason: NodeExit) -> None:
        """Tell the other nodes, once, and give the remaining ranks their grace."""
        if self._ending is not None:
            return
        self._ending = reason
        write_node_exit(self._attempt, reason)
        self._terminate(self._options.kill_grace_s)

    def _terminate(self, grace_s: float) -> None:
        for rank in self._ranks:
            rank.send(signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _conclude(self) -> NodeExit:
        ends = [self._exit(*verdict) for verdict in self._verdict_by_rank.values()]
        if self._ending is not None:
            # A rank that was killed explains those that then failed, whichever was seen first.
            leading = [self._ending] if self._ending.cause in {Cause.HUNG, Cause.FOLLOWED} else []
            return (leading or [primary([*ends, self._ending]) or self._ending])[0]
        unjudged = [end for end in ends if end.cause is Cause.UNJUDGED]
        if unjudged:
            return unjudged[0]
        if len(ends) < len(self._ranks):
            return self._exit(
                Cause.STOPPED,
                f"asked by {self._asked_by}, and killed {self._options.stop_grace_s:g} s later: "
                "what came after the last checkpoint is lost",
            )
        if any(end.cause is Cause.STOPPED for end in ends):
            return self._exit(Cause.STOPPED, f"asked by {self._asked_by}")
        return self._exit(Cause.FINISHED, "every rank ended well")

    def _exit(self, cause: Cause, detail: str) -> NodeExit:
        return NodeExit(
            role=self._role, node=self._node, cause=cause, detail=detail, at=time.time()
        )

    def _verdict(self, number: int, code: int) -> tuple[Cause, str]:
        is_asked = self._asked_by is not None
        if code == 0:
            return Cause.FINISHED, f"rank {number} finished"
        if code == STOPPED_RANK_EXIT_CODE or (code == -signal.SIGTERM and is_asked):
            return Cause.STOPPED, f"rank {number} stopped"
        if code == JudgeUnavailable.EXIT_CODE:
            return Cause.UNJUDGED, f"rank {number} stopped: the judge gave too few verdicts"
        if code == SETTING_RANK_EXIT_CODE:
            return Cause.SETTING, f"rank {number} found a setting or a file wrong (exit code 2)"
        if code == -signal.SIGKILL:
            return Cause.KILLED, f"rank {number} was killed (SIGKILL)"
        if code == CheckpointWriterKilled.EXIT_CODE:
            return Cause.KILLED, f"rank {number}: a checkpoint's writer was killed (out of memory?)"
        if code < 0:
            return Cause.FAILED, f"rank {number} was ended by {signal.Signals(-code).name}"
        return Cause.FAILED, f"rank {number} failed with exit code {code}"
