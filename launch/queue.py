"""The jobs of one run in Slurm's queue: submitted, chained, looked up and cancelled.

``BASE/job/submitted.jsonl`` has one line for each job that was submitted from here.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from launch import slurm
from launch.job import JobKind
from launch.render import JOB_FILE, SCRIPT_FILE
from launch.slurm import JobState
from megatron_longrlvr.errors import ConfigError

SUBMITTED_FILE = "submitted.jsonl"


def base_of(run_dir: Path, kind: JobKind) -> Path:
    """Where the attempts and the ``job`` folder of a run's training, evaluation ... lie."""
    return run_dir / kind if kind in {"evaluate", "convert"} else run_dir


def script_of(base: Path) -> Path:
    """The rendered script.

    Raises:
        ConfigError: Nothing was rendered here, or for another place.
    """
    script = base / "job" / SCRIPT_FILE
    if not script.is_file():
        raise ConfigError(f"{script} does not exist; `python -m launch render` writes it")
    source = re.search(r"^source '?([^'\n]+)'?/lib\.sh$", script.read_text(), re.MULTILINE)
    if source is not None and Path(source[1]).resolve() != script.parent.resolve():
        raise ConfigError(
            f"{script} was written for {source[1]}; `python -m launch render` writes it anew"
        )
    return script


def submitted_jobs(base: Path) -> list[str]:
    """Ids of the jobs submitted for a run so far, oldest first.

    Raises:
        ConfigError: A line tells of no job.
    """
    path = base / "job" / SUBMITTED_FILE
    if not path.is_file():
        return []
    ids = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            ids.append(str(json.loads(line)["job_id"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path}:{number} tells of no job: {error!r}; mend or remove that line"
            ) from error
    return ids


def active_jobs(base: Path) -> list[JobState]:
    """Those of them that run or wait."""
    states = map(slurm.job_state, submitted_jobs(base))
    return [state for state in states if not state.has_ended]


def submit(base: Path) -> str:
    """Queue the rendered script and remember the job's id.

    Raises:
        ConfigError: A job of this run runs or waits already; two would write over each other.
        RuntimeError: sbatch refused it.
    """
    check_idle(base)
    return _queue(base, script_of(base), [])


def check_idle(base: Path) -> None:
    """Refuse a second job of a run.

    Raises:
        ConfigError: One runs or waits already.
    """
    active = active_jobs(base)
    if active:
        raise ConfigError(
            f"job {active[0].job_id} of {base} is {active[0].state.lower()} already; "
            "`chain` queues jobs behind it, `cancel` ends it"
        )


def chain(base: Path, count: int) -> list[str]:
    """Queue jobs that run one after the other, each going on where the one before stopped.

    A job waits for all earlier ones of the same name and user (``--dependency=singleton``), however
    they ended; one that finds the run finished ends at once.
    """
    script = script_of(base)
    return [_queue(base, script, ["--dependency=singleton"]) for _ in range(count)]


def cancel(base: Path) -> list[str]:
    """Cancel what runs or waits; returns the ids."""
    # The waiting ones first: the end of a running job would start the next of its chain.
    active = [state.job_id for state in reversed(active_jobs(base))]
    if active:
        slurm.cancel(active)
    return active


def _queue(base: Path, script: Path, options: list[str]) -> str:
    job_id = slurm.submit(script, options=options)
    name = json.loads((base / "job" / JOB_FILE).read_text())["name"]
    record = {"job_id": job_id, "name": name, "submitted": time.time()}
    with (base / "job" / SUBMITTED_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return job_id
