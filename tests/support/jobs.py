"""Jobs for the tests' cluster: small programs under the real job script, and real training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from launch import queue
from launch.job import Job, JobRequest, plan_job
from launch.render import write_job
from launch.site import Site
from tests.support.runs import toy_config

PROGRAMS = Path(__file__).parents[1] / "slurm" / "programs"

# Short enough for a test's patience, and no shorter than a busy machine needs.
SUPERVISION = {
    "warning_s": 30,
    "stop_grace_s": 10,
    "kill_grace_s": 5,
    "hang_timeout_s": 0,
    "lost_node_wait_s": 60,
    "max_restarts": 3,
    "max_stalled": 3,
}


def site(nodes: int = 2, processes: int = 1, **changes: Any) -> Site:
    """The profile of the tests' cluster; ``changes`` are of the site or else of supervision."""
    top = {key: changes.pop(key) for key in list(changes) if key in Site.model_fields}
    content = {
        "name": "tests",
        "nodes": nodes,
        "time": "00:05:00",
        "python": sys.executable,
        "node": {
            "gpus": 0,
            "processes": processes,
            "cpus": 2,
            "memory": None,
            "exclusive": False,
        },
        "env": {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        "preflight": {"wait_s": 5, "all_reduce_mib": 0},
        "supervision": {**SUPERVISION, **changes},
        **top,
    }
    return Site.model_validate(content)


def program_job(base: Path, name: str, profile: Site, *arguments: str) -> Job:
    """A job whose ranks run ``tests/slurm/programs/NAME.py``."""
    return Job(
        kind="train",
        name=base.name,
        base=base,
        nodes=profile.nodes,
        processes=profile.processes_per_node,
        time=profile.time,
        arguments=(str(PROGRAMS / f"{name}.py"), str(base), *arguments),
        configs=(toy_config(base),),
    )


def submit_program(base: Path, name: str, profile: Site, *arguments: str) -> str:
    """Queue the job of a program; returns its id."""
    job = program_job(base, name, profile, *arguments)
    write_job(job, profile, command=("test",), workdir=base)
    return queue.submit(base)


def submit_training(base: Path, profile: Site, **changes: Any) -> str:
    """Queue real training on the toy task; ``changes`` as for ``toy_config``."""
    job = training_job(base, profile, **changes)
    write_job(job, profile, command=("test",), workdir=base)
    return queue.submit(base)


def training_job(base: Path, profile: Site, **changes: Any) -> Job:
    """Real training on the toy task, in steps of a fraction of a second."""
    base.mkdir(exist_ok=True)
    recipe = base / "given.json"
    quick = {"trainer__eval_every": 0, "trainer__save_every": 1, "evaluation": None}
    recipe.write_text(toy_config(base, **{**quick, **changes}).model_dump_json())
    return plan_job(JobRequest(recipe=str(recipe), overrides=()), profile)
