"""The ranks of one node as processes: started, signalled, looked at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.rank import AGENT_VARIABLE, STACKS_SIGNAL
from launch.rendezvous import MeetingPoint, Place
from megatron_longrlvr.observability.heartbeat import HEARTBEAT_VARIABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """One started rank."""

    number: int
    process: subprocess.Popen[bytes]
    heartbeat: Path
    """Touched by the rank when it gets from one part of a step to the next."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self.process.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal the rank; one that has ended is left alone."""
        if self.exit_code is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End the rank and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def print_stacks(self) -> None:
        """Have the rank write the stacks of its threads to its standard error."""
        self.send(STACKS_SIGNAL)

    def silent_s(self) -> float:
        """Seconds since its last sign of life."""
        return time.time() - self.heartbeat.stat().st_mtime


def rank_environment(
    *, place: Place, meeting: MeetingPoint, local_rank: int, num_local: int
) -> dict[str, str]:
    """What torch.distributed reads, as torchrun would set it."""
    return {
        "RANK": str(place.index * num_local + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(place.count * num_local),
        "LOCAL_WORLD_SIZE": str(num_local),
        "GROUP_RANK": str(place.index),
        "MASTER_ADDR": meeting.host,
        "MASTER_PORT": str(meeting.port),
    }


def start_ranks(
    command: Sequence[str], environments: Sequence[Mapping[str, str]], heartbeats: Path
) -> list[Rank]:
    """Start one process for each environment, their output going where this process's goes.

    Args:
        command: Arguments of the interpreter: ``-m MODULE ...`` or ``SCRIPT ...``.
        environments: Added to this process's own.
        heartbeats: Folder for the ranks' signs of life, on the node's own disk.
    """
    ranks = []
    for environment in environments:
        heartbeat = heartbeats / environment["RANK"]
        heartbeat.touch()
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.rank", *command],
            env={
                **os.environ,
                **environment,
                HEARTBEAT_VARIABLE: str(heartbeat),
                AGENT_VARIABLE: str(os.getpid()),
            },
            # A group of its own: what the rank has started is killed with it, and Ctrl-C comes
            # to it once, from the agent.
            start_new_session=True,
        )
        ranks.append(Rank(number=int(environment["RANK"]), process=process, heartbeat=heartbeat))
    return ranks
