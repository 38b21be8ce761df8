"""The agent of one node: starts its ranks, watches them, and says why they ended.

    srun ... python -m launch.agent --attempt DIR --role train --procs 8 -- -m MODULE ARGS

The agents of a job speak through files in the attempt's directory: where to meet, that the job is
to stop (``stop``, written by the job script), and how each node ended. The first death on any node
ends the job on all of them within seconds, after a grace for a checkpoint in flight.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from launch.exit_reason import EXIT_CODES, Cause, NodeExit, write_node_exit
from launch.ranks import rank_environment, start_ranks
from launch.rendezvous import Place, meeting_point
from launch.watch import Watch, WatchOptions

_log = logging.getLogger("agent")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentOptions:
    """What one agent runs and where it says how that went."""

    attempt: Path
    role: str
    num_ranks: int
    """On this node."""

    job_id: int
    command: Sequence[str]
    """``-m MODULE ARGS`` or ``SCRIPT ARGS``."""

    watch: WatchOptions


def run_agent(options: AgentOptions, place: Place) -> NodeExit:
    """Run this node's share to its end and leave the reason for the others."""
    with ExitStack() as stack:
        heartbeats = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="longrlvr-")))
        meeting = stack.enter_context(
            meeting_point(options.attempt, role=options.role, place=place, job_id=options.job_id)
        )
        environments = [
            rank_environment(
                place=place, meeting=meeting, local_rank=local, num_local=options.num_ranks
            )
            for local in range(options.num_ranks)
        ]
        _log.info("%d ranks, meeting at %s:%d", options.num_ranks, meeting.host, meeting.port)
        watch = Watch(
            start_ranks(options.command, environments, heartbeats),
            options.watch,
            attempt=options.attempt,
            role=options.role,
            node=place.name,
        )
        # A rank killed without the agent's knowledge must not outlive it.
        stack.callback(watch.kill_all)
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, lambda got, _: watch.ask_to_stop(_name(got)))
            stack.callback(signal.signal, number, before)
        reason = watch.run()
    write_node_exit(options.attempt, reason)
    _log.info("%s: %s", reason.cause.value, reason.detail)
    return reason


def _name(number: int) -> str:
    return signal.Signals(number).name


def slurm_place() -> Place:
    """This node among those of the Slurm step."""
    return Place(
        index=int(os.environ["SLURM_PROCID"]),
        count=int(os.environ["SLURM_NTASKS"]),
        name=os.environ["SLURMD_NODENAME"],
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m launch.agent", description=__doc__)
    parser.add_argument("--attempt", type=Path, required=True)
    parser.add_argument("--role", default="train")
    parser.add_argument("--procs", type=int, required=True)
    parser.add_argument("--hang-timeout", type=int, default=0, help="seconds; 0 waits for ever")
    parser.add_argument("--stop-grace", type=int, default=240, help="seconds")
    parser.add_argument("--kill-grace", type=int, default=60, help="seconds")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a task of a Slurm step; one task on each node."""
    parsed = _parse(arguments)
    place = slurm_place()
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s agent {place.name}: %(message)s", stream=sys.stderr
    )
    options = AgentOptions(
        attempt=parsed.attempt,
        role=parsed.role,
        num_ranks=parsed.procs,
        job_id=int(os.environ["SLURM_JOB_ID"]),
        command=parsed.command[1:],
        watch=WatchOptions(
            hang_timeout_s=parsed.hang_timeout,
            stop_grace_s=parsed.stop_grace,
            kill_grace_s=parsed.kill_grace,
        ),
    )
    try:
        reason = run_agent(options, place)
    except (OSError, RuntimeError) as error:
        reason = NodeExit(
            role=options.role,
            node=place.name,
            cause=Cause.FAILED,
            detail=f"the agent failed: {error}",
            at=time.time(),
        )
        _log.exception("cannot run this node's ranks")
        write_node_exit(options.attempt, reason)
    return EXIT_CODES[reason.cause]


if __name__ == "__main__":
    raise SystemExit(main())
