"""What each command of ``python -m launch`` does."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from launch import queue, slurm
from launch.explain import explain_run, log_files
from launch.job import Job, JobRequest, plan_job, run_dir_of
from launch.local import run_local
from launch.memory import check_memory
from launch.render import write_job
from launch.requeue import Limits, checkpoint_step, list_attempts, list_started
from launch.site import NodeSection, Site, load_site
from launch.stage import load_stage
from launch.watch import WatchOptions
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError

_LOCAL_STALLED = 2


def render(parsed: argparse.Namespace) -> int:
    """Write the job script and print its path."""
    _, script = _render(parsed)
    _say(str(script))
    return 0


def check(parsed: argparse.Namespace) -> int:
    """Plan the memory, render, then ask Slurm."""
    job, site = _plan(parsed)
    memory = check_memory(job, site)
    script = _write(parsed, job, site)
    _say(f"{script}: recipe and profile fit together")
    _say(memory)
    _say(slurm.test_only(script))
    return 0


def submit(parsed: argparse.Namespace) -> int:
    """Render and queue."""
    job, site = _plan(parsed)
    if not parsed.dry_run:
        # Before anything is written: the job that is there reads it when it is requeued.
        queue.check_idle(job.base)
    script = _write(parsed, job, site)
    if parsed.dry_run:
        _say(f"would submit {script}")
        return 0
    _say(f"submitted job {queue.submit(job.base)}: {script}")
    return 0


def chain(parsed: argparse.Namespace) -> int:
    """Render and queue several jobs in a row."""
    if parsed.jobs < 1:
        raise ConfigError(f"--jobs {parsed.jobs} must be at least 1")
    job, script = _render(parsed)
    if parsed.dry_run:
        _say(f"would submit {script} {parsed.jobs} times, one after the other")
        return 0
    ids = queue.chain(job.base, parsed.jobs)
    _say(f"submitted jobs {' '.join(ids)}: {script}")
    return 0


def status(parsed: argparse.Namespace) -> int:
    """Print one line for each job, and how far the run is."""
    base = _base(parsed)
    for job_id in queue.submitted_jobs(base):
        state = slurm.job_state(job_id)
        facts = [state.state, state.reason, state.nodes, state.run_time]
        shown = " ".join(fact for fact in facts if fact and fact != "None")
        _say(f"job {job_id}: {shown}, {state.restarts} restarts")
    for run in list_started(base) or [base]:
        _say(f"{run}: {len(list_attempts(run))} attempts, saved up to step {checkpoint_step(run)}")
    return 0


def logs(parsed: argparse.Namespace) -> int:
    """Print, or follow, the newest attempt's logs."""
    base = _base(parsed)
    files = [file for run in list_started(base) for file in log_files(list_attempts(run)[-1])]
    if not files:
        raise ConfigError(f"{base} has no logs yet")
    mode = ["-F"] if parsed.follow else []
    command = ["tail", "-v", "-n", str(parsed.lines), *mode, *map(str, files)]
    os.execvp(command[0], command)


def attach(parsed: argparse.Namespace) -> int:
    """Open a shell beside the run's processes."""
    running = [job for job in queue.active_jobs(_base(parsed)) if job.state == "RUNNING"]
    if not running:
        raise ConfigError(f"no job of {_base(parsed)} is running")
    command = slurm.attach_command(running[0].job_id, parsed.node)
    if parsed.dry_run:
        _say(shlex.join(command))
        return 0
    os.execvp(command[0], command)


def cancel(parsed: argparse.Namespace) -> int:
    """Cancel the run's jobs."""
    base = _base(parsed)
    if parsed.dry_run:
        ids = [state.job_id for state in queue.active_jobs(base)]
        _say(f"would cancel {' '.join(ids) or 'nothing'}")
        return 0
    _say(f"cancelled {' '.join(queue.cancel(base)) or 'nothing: no job runs or waits'}")
    return 0


def resume(parsed: argparse.Namespace) -> int:
    """Queue the script that is there, as it is."""
    base = _base(parsed)
    script = queue.script_of(base)
    if parsed.dry_run:
        _say(f"would submit {script}, from step {checkpoint_step(base)}")
        return 0
    _say(f"submitted job {queue.submit(base)}, from step {checkpoint_step(base)}: {script}")
    return 0


def explain(parsed: argparse.Namespace) -> int:
    """Print why the last attempt ended."""
    for line in explain_run(_base(parsed)):
        _say(line)
    return 0


def local(parsed: argparse.Namespace) -> int:
    """Run here."""
    if parsed.procs < 1:
        raise ConfigError(f"--procs {parsed.procs} must be at least 1")
    here = Site(name="local", node=NodeSection(gpus=0, processes=parsed.procs))
    job = plan_job(JobRequest(recipe=parsed.recipe, overrides=parsed.overrides), here)
    return run_local(
        job,
        watch=WatchOptions(hang_timeout_s=parsed.hang_timeout),
        limits=Limits(max_restarts=parsed.max_restarts, max_stalled=_LOCAL_STALLED),
    )


def _render(parsed: argparse.Namespace) -> tuple[Job, Path]:
    job, site = _plan(parsed)
    return job, _write(parsed, job, site)


def _write(parsed: argparse.Namespace, job: Job, site: Site) -> Path:
    try:
        return write_job(job, site, command=parsed.command, workdir=Path.cwd())
    except OSError as error:
        raise ConfigError(f"cannot write the job to {job.folder}: {error}") from error


def _plan(parsed: argparse.Namespace) -> tuple[Job, Site]:
    site = load_site(parsed.site)
    request = JobRequest(
        recipe=parsed.recipe,
        overrides=parsed.overrides,
        kind=parsed.job,
        nodes=parsed.nodes,
        time=parsed.time,
        sweep=parsed.vary,
        server_nodes=parsed.server_nodes,
        is_heterogeneous=parsed.heterogeneous,
    )
    return plan_job(request, site), site


def _base(parsed: argparse.Namespace) -> Path:
    """Base directory of the run that was named by its recipe or by its directory."""
    given = Path(parsed.recipe)
    if given.is_dir():
        return queue.base_of(given.absolute(), parsed.job)
    if parsed.job == "data":
        return Path(load_stage(parsed.recipe, parsed.overrides).dir).absolute()
    config = load_config(parsed.recipe, parsed.overrides, TrainConfig)
    return queue.base_of(run_dir_of(config), parsed.job)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's result
