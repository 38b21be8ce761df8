"""A job as files: the script a person can read and submit by hand, its recipe, and the library.

BASE/job/job.sbatch     BASE is the run's directory, or evaluate/ or convert/ in it
BASE/job/recipe.json    resolved, every default included (recipes/000.json ... for a sweep,
                        stage.json for a data stage)
BASE/job/lib.sh         as it was when the script was written
BASE/job/job.json       for `launch status` and the like
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.job import CHECKOUT, Job, check_plain
from launch.site import (
    ApptainerContainer,
    NodeSection,
    PreflightSection,
    PyxisContainer,
    Site,
)
from megatron_longrlvr.config.load import write_config
from megatron_longrlvr.files import write_atomically

SCRIPT_FILE = "job.sbatch"
JOB_FILE = "job.json"

_SLURM = CHECKOUT / "slurm"
_TITLES = {
    "train": "Training: the policy learns and samples in the same processes.",
    "servers": "Training, with rollout servers on nodes of their own.",
    "evaluate": "Evaluation of the run's newest checkpoint.",
    "convert": "The run's newest checkpoint as a Hugging Face folder.",
    "sweep": "Sweep: one training run for each combination of settings.",
    "data": "Data stage: one task for each shard.",
}

# Sorts of job whose steps differ from those of all others.
_OWN_TEMPLATE = frozenset({"sweep", "data", "servers"})


def render_script(job: Job, site: Site, *, command: Sequence[str], workdir: Path) -> str:
    """The job script.

    Args:
        job: What it runs.
        site: Where.
        command: What was typed, for the script's head.
        workdir: Relative paths of the recipe start here.

    Raises:
        ConfigError: The path of ``workdir`` would have to be quoted.
    """
    check_plain(workdir, named="the working directory")
    environment = Environment(
        loader=FileSystemLoader(_SLURM / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # bash, quoted by the filters below
    )
    environment.filters["quote"] = _quote
    environment.filters["quoted"] = lambda values: " ".join(map(_quote, values))
    sort = "servers" if job.servers is not None else job.kind
    template = f"{sort if sort in _OWN_TEMPLATE else 'job'}.sbatch.j2"
    return environment.get_template(template).render(
        title=_TITLES[sort],
        # A line break in a value must not end the comment, and with it sbatch's search for options.
        command=shlex.join(command).replace("\n", "\n# "),
        directives=_directives(job, site, workdir),
        folder=str(job.folder),
        base=str(job.base),
        steps=job.steps,
        site=site,
        supervision=site.supervision,
        checkout=str(CHECKOUT),
        srun_options=_srun_options(site, workdir),
        in_step=_in_step(site, workdir),
        role="train" if job.kind == "sweep" else job.kind,
        nodes=job.nodes,
        processes=job.processes,
        arguments=job.arguments,
        servers=job.servers,
        server_node=site.server_node,
        preflight=_preflight(site.preflight),
    )


def write_job(job: Job, site: Site, *, command: Sequence[str], workdir: Path) -> Path:
    """Write everything that ``sbatch`` needs; returns the script's path."""
    script = job.folder / SCRIPT_FILE
    text = render_script(job, site, command=command, workdir=workdir)
    job.folder.mkdir(parents=True, exist_ok=True)
    if job.kind == "sweep":
        (job.folder / "recipes").mkdir(exist_ok=True)
        for index, config in enumerate(job.configs):
            write_config(config, job.folder / "recipes" / f"{index:03d}.json")
    elif job.stage is not None:
        write_config(job.stage, job.folder / "stage.json")
    else:
        write_config(job.configs[0], job.folder / "recipe.json")
    write_atomically(job.folder / "lib.sh", (_SLURM / "lib.sh").read_text(encoding="utf-8"))
    record = {"name": job.name, "kind": job.kind, "steps": job.steps, "site": site.name}
    write_atomically(job.folder / JOB_FILE, json.dumps(record, indent=2) + "\n")
    write_atomically(script, text)
    return script


def _preflight(preflight: PreflightSection) -> str:
    """Arguments of ``job_preflight`` behind the number of GPUs."""
    return (
        f"{preflight.min_all_reduce_gb_per_s:g} --wait {preflight.wait_s} "
        f"--max-skew {preflight.max_skew_s} --all-reduce-mib {preflight.all_reduce_mib} "
        f"--all-reduce-timeout {preflight.all_reduce_timeout_s}"
    )


def _quote(value: object) -> str:
    text = str(value)
    # A bare comma in an array is right, and looks like a mistake to readers and to shellcheck.
    return f"'{text}'" if "," in text and shlex.quote(text) == text else shlex.quote(text)


def _directives(job: Job, site: Site, workdir: Path) -> list[str]:
    log = "%A-%a.log" if job.array else "%j.log"
    servers = job.servers
    is_flat = servers is not None and not servers.is_heterogeneous
    nodes = job.nodes + servers.nodes if servers is not None and is_flat else job.nodes
    directives = [
        f"--job-name={job.name}",
        *_request(site, site.node, nodes=nodes),
        *_array(job),
        f"--time={job.time}",
        f"--chdir={workdir}",
        f"--output={job.folder}/{log}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{site.supervision.warning_s}",
        *site.directives,
    ]
    if servers is None or is_flat:
        return directives
    place = {
        "partition": site.servers.partition or site.partition,
        "constraint": site.servers.constraint or site.constraint,
    }
    return [
        *directives,
        "hetjob",
        *_request(site.model_copy(update=place), site.server_node, nodes=servers.nodes),
    ]


def _array(job: Job) -> list[str]:
    if not job.array:
        return []
    together = job.stage.max_concurrent if job.stage is not None else None
    return [f"--array=0-{job.array - 1}{f'%{together}' if together else ''}"]


def _request(site: Site, node: NodeSection, *, nodes: int) -> list[str]:
    """Which nodes, and what of each."""
    gpus = f"{node.gpu_type}:{node.gpus}" if node.gpu_type else str(node.gpus)
    request = f"--gres=gpu:{gpus}" if node.gpu_request == "gres" else f"--gpus-per-node={gpus}"
    optional = {
        "--partition": site.partition,
        "--account": site.account,
        "--qos": site.qos,
        "--constraint": site.constraint,
        "--reservation": site.reservation,
        "--exclude": ",".join(site.exclude) or None,
        "--cpus-per-task": node.cpus,
        "--mem": node.memory,
    }
    return [
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        *([request] if node.gpus else []),
        *(["--exclusive"] if node.exclusive else []),
        *(f"{option}={value}" for option, value in optional.items() if value is not None),
    ]


def _srun_options(site: Site, workdir: Path) -> list[str]:
    container = site.container
    if not isinstance(container, PyxisContainer):
        return []
    mounts = [f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []
    return [
        f"--container-image={container.image}",
        *mounts,
        f"--container-workdir={workdir}",
        *container.options,
    ]


def _in_step(site: Site, workdir: Path) -> list[str]:
    container = site.container
    if not isinstance(container, ApptainerContainer):
        return []
    binds = [part for mount in container.mounts for part in ("--bind", mount)]
    pwd = ["--pwd", str(workdir)]
    return ["apptainer", "exec", *container.options, *binds, *pwd, container.image]
