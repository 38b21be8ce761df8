"""Slurm's commands, each with a time limit: with the controller down they retry for minutes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 60.0

ENDED_STATES = frozenset(
    {
        *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"),
        *("DEADLINE", "OUT_OF_MEMORY", "BOOT_FAIL"),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """What Slurm knows of one job."""

    job_id: str
    state: str
    """``UNKNOWN`` once Slurm has forgotten the job."""

    reason: str = ""
    nodes: str = ""
    restarts: int = 0
    run_time: str = ""
    exit_code: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it will not run again."""
        return self.state in ENDED_STATES or self.state == "UNKNOWN"


def submit(script: Path, *, options: Sequence[str] = ()) -> str:
    """Queue a job script and return the job's id.

    Raises:
        RuntimeError: sbatch refused it; with what it said.
    """
    return _run(["sbatch", "--parsable", *options, str(script)]).strip().partition(";")[0]


def test_only(script: Path) -> str:
    """Ask Slurm whether the job could ever run; returns its estimate.

    Raises:
        RuntimeError: It could not; with what sbatch said.
    """
    return _run(["sbatch", "--test-only", str(script)], with_stderr=True).strip()


def job_state(job_id: str) -> JobState:
    """State of a job, from the controller or, where it has forgotten it, from accounting.

    Raises:
        RuntimeError: The controller does not answer.
    """
    try:
        shown = _run(["scontrol", "-o", "show", "job", job_id]).strip().split("\n")
    except RuntimeError as error:
        if "Invalid job id" not in str(error):
            raise
        return _accounted_state(job_id)
    # The first line is the job itself, the others its further components or array tasks. That of an
    # array is the task that was started last, and says nothing of those that run on.
    states = [_shown_state(job_id, _fields(line)) for line in shown]
    return next((state for state in states if not state.has_ended), states[0])


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; those that have ended are left alone."""
    _run(["scancel", *job_ids])


def attach_command(job_id: str, node: str | None) -> list[str]:
    """A shell on a node of a running job, beside its processes."""
    where = [f"--nodelist={node}"] if node else []
    alone = ["--overlap", "--nodes=1", "--ntasks=1"]
    return ["srun", f"--jobid={job_id}", *alone, *where, "--pty", "bash", "-i"]


def _shown_state(job_id: str, fields: dict[str, str]) -> JobState:
    return JobState(
        job_id=job_id,
        state=fields["JobState"],
        reason=fields["Reason"],
        nodes=_given(fields.get("NodeList", "")),
        restarts=int(fields["Restarts"]),
        run_time=fields["RunTime"],
        exit_code=fields["ExitCode"],
    )


def _accounted_state(job_id: str) -> JobState:
    columns = "State,NodeList,Elapsed,ExitCode"
    try:
        line = _run(["sacct", "-X", "-n", "-P", "-j", job_id, "-o", columns]).partition("\n")[0]
        state, nodes, run_time, exit_code = line.split("|")
    except (RuntimeError, ValueError):  # no accounting here, or it does not know the job
        return JobState(job_id=job_id, state="UNKNOWN")
    # "CANCELLED by 1000"
    return JobState(
        job_id=job_id,
        state=state.split()[0],
        nodes=nodes,
        run_time=run_time,
        exit_code=exit_code,
    )


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"(\S+?)=(\S*)", line))


def _given(value: str) -> str:
    return "" if value == "(null)" else value


def _run(command: Sequence[str], *, with_stderr: bool = False) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is not installed here: no Slurm to speak to") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]} got no answer in {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout + (done.stderr if with_stderr else "")
