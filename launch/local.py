"""The same supervision on this machine, without Slurm: ``launch local RECIPE --procs N``."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from launch.agent import AgentOptions, run_agent
from launch.exit_reason import AttemptExit, write_attempt_exit
from launch.job import Job
from launch.rendezvous import Place
from launch.requeue import (
    Begin,
    Limits,
    checkpoint_step,
    conclude,
    is_finished,
    refusal,
    write_begin,
)
from launch.watch import WatchOptions
from megatron_longrlvr.config.load import write_config

_log = logging.getLogger("local")


def run_local(job: Job, *, watch: WatchOptions, limits: Limits) -> int:
    """Run to the end, starting again after a killed or hung rank; returns the exit code."""
    job.folder.mkdir(parents=True, exist_ok=True)
    write_config(job.configs[0], job.folder / "recipe.json")
    restarts = 0
    while True:
        if job.steps > 0 and is_finished(job.base, job.steps):
            _log.info("%s is finished: %d steps", job.base, job.steps)
            return 0
        ended = _attempt(job, restarts, watch, limits)
        _log.info("%s: %s; %s", ended.cause.value, ended.detail, ended.next_step)
        if not ended.is_requeued:
            return ended.exit_code
        restarts += 1


def _attempt(job: Job, restarts: int, watch: WatchOptions, limits: Limits) -> AttemptExit:
    attempt = job.base / f"local-{os.getpid()}-{restarts}"
    begin = Begin(
        job_id="0",
        restarts=restarts,
        checkpoint_step=checkpoint_step(job.base),
        started=time.time(),
    )
    problem = refusal(job.base, begin, limits)
    write_begin(attempt, begin)
    _link_latest(attempt)
    if problem is not None:
        ended = AttemptExit.refused(problem)
    else:
        options = AgentOptions(
            attempt=attempt,
            role=job.kind,
            num_ranks=job.processes,
            job_id=os.getpid(),
            command=job.arguments,
            watch=watch,
        )
        run_agent(options, Place(index=0, count=1, name="127.0.0.1"))
        ended = conclude(attempt, begin=begin, num_nodes=1, limits=limits)
    write_attempt_exit(attempt, ended)
    return ended


def _link_latest(attempt: Path) -> None:
    link = attempt.parent / "latest"
    link.unlink(missing_ok=True)
    link.symlink_to(attempt.name)
