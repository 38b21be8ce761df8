"""Why a run's last attempt ended, from what it left behind and what Slurm knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launch import slurm
from launch.exit_reason import read_attempt_exit, read_node_exits
from launch.requeue import checkpoint_step, list_attempts, list_started, read_begin
from launch.slurm import JobState

_TAIL_LINES = 15

# States in which Slurm, and no part of the job, decided on the end.
_SLURM_ENDINGS = {
    "CANCELLED": "cancelled by its owner or an administrator; never requeued",
    "TIMEOUT": "ended at the time limit before it could be requeued; raise "
    "supervision.warning_s of the site profile, or --time",
    "NODE_FAIL": "a node failed and Slurm did not requeue the job",
    "OUT_OF_MEMORY": "a process took more host memory than the job has (node.memory)",
    "PREEMPTED": "preempted, and not requeued by this cluster",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its nodes did not boot",
}


def explain_run(base: Path) -> Iterator[str]:
    """Lines for a person about the last attempt below ``base``."""
    attempts = list_attempts(base)
    if not attempts:
        tasks = list_started(base)
        yield from map(_explain_task, tasks)
        if not tasks:
            yield f"{base}: no attempt has started"
        return
    attempt = attempts[-1]
    begin = read_begin(attempt)
    yield f"attempt   {attempt}"
    yield f"steps     {begin.checkpoint_step} at its start, {checkpoint_step(base)} saved by now"
    state = _slurm_state(begin.job_id)
    if state is not None:
        yield f"slurm     {_described(state)}"
        if state.state in _SLURM_ENDINGS:
            yield f"cause     {state.state}: {_SLURM_ENDINGS[state.state]}"
    ended = read_attempt_exit(attempt)
    if ended is not None:
        where = f" on {ended.node}" if ended.node else ""
        yield f"cause     {ended.cause.value}{where}: {ended.detail}"
        yield f"next      {ended.next_step}"
    elif state is not None and state.state == "RUNNING":
        yield "cause     it is still running"
    else:
        yield "cause     the attempt left no record: its first node went down, or it was killed"
    for reason in read_node_exits(attempt):
        yield f"node      {reason.node}: {reason.cause.value}, {reason.detail}"
    node = ended.node if ended is not None else ""
    yield from _tails(attempt, node)


def _explain_task(task: Path) -> str:
    """One line about a task of an array; its folder can be explained by itself."""
    attempts = list_attempts(task)
    ended = read_attempt_exit(attempts[-1]) if attempts else None
    if ended is None:
        return f"task      {task}: left no record: it is still running, or was killed"
    where = f" on {ended.node}" if ended.node else ""
    return f"task      {task}: {ended.cause.value}{where}: {ended.detail}; {ended.next_step}"


def log_files(attempt: Path) -> list[Path]:
    """Logs of an attempt, ``ROLE-NODE.log``."""
    return sorted(attempt.glob("*.log"))


def _tails(attempt: Path, node: str) -> Iterator[str]:
    for log in log_files(attempt):
        if node and not log.stem.endswith(f"-{node}"):
            continue
        yield f"log       {log}"
        lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        yield from (f"    {line}" for line in lines)


def _slurm_state(job_id: str) -> JobState | None:
    if job_id == "0":
        return None
    try:
        return slurm.job_state(job_id)
    except RuntimeError:  # no Slurm here, or it is down; the files still tell
        return None


def _described(state: JobState) -> str:
    parts = [f"job {state.job_id}", state.state]
    if state.reason and state.reason != "None":
        parts.append(state.reason)
    if state.nodes:
        parts.append(state.nodes)
    return f"{' '.join(parts)}, {state.restarts} restarts, exit code {state.exit_code}"
