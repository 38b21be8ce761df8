"""What a job runs: nodes, ranks, the command of each rank, and where its files lie."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from launch.site import Site, seconds_of
from launch.stage import STAGE_STEPS, DataStage, load_stage
from megatron_longrlvr.config.checks import check_train_config
from megatron_longrlvr.config.load import load_config
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.errors import ConfigError
from megatron_longrlvr.trainer.run_dir import claim_run_dir

CHECKOUT = Path(__file__).parent.parent

JobKind = Literal["train", "evaluate", "convert", "sweep", "data"]
# Where nodes keep what the others do not see.
_NODE_LOCAL = ("/dev/shm", "/tmp")

JOB_KINDS: tuple[JobKind, ...] = get_args(JobKind)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """What was asked for on the command line."""

    recipe: str
    overrides: Sequence[str]
    kind: JobKind = "train"
    nodes: int | None = None
    time: str | None = None
    sweep: Sequence[str] = ()
    """``key=a,b,c`` for each setting that a sweep varies; it takes every combination."""

    server_nodes: int = 0
    """Nodes for rollout servers, besides ``nodes`` for the trainer."""

    is_heterogeneous: bool = False
    """Ask for the two kinds of nodes separately, as a heterogeneous job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerGroup:
    """The rollout servers of a job."""

    nodes: int
    per_node: int
    is_heterogeneous: bool
    arguments: Sequence[str]
    """Of each server's interpreter; ``{port}`` stands for its port."""

    @property
    def count(self) -> int:
        """Servers of the job."""
        return self.nodes * self.per_node


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job, completely described and checked."""

    kind: JobKind
    name: str
    base: Path
    """Absolute; attempts, logs and ``job/`` go below it."""

    nodes: int
    processes: int
    """Ranks on each node."""

    time: str
    configs: Sequence[TrainConfig] = ()
    """Resolved recipes: one, several for a sweep, none for a data stage."""

    arguments: Sequence[str] = ()
    """Of every rank's interpreter; a sweep and a data stage name them for each task."""

    servers: ServerGroup | None = None
    """On nodes of their own."""

    stage: DataStage | None = None

    steps: int = 0
    """Training steps that it is to get to; 0 where it does not train."""

    array: int = 0
    """Tasks of the array; 0 for a single job."""

    @property
    def folder(self) -> Path:
        """Where the job script and what it needs lie."""
        return self.base / "job"


def plan_job(request: JobRequest, site: Site) -> Job:
    """Resolve the recipe and check it against the job's size and the run that lies there.

    Raises:
        ConfigError: Names the key of the recipe or of the profile.
    """
    nodes = site.nodes if request.nodes is None else request.nodes
    if nodes < 1:
        raise ConfigError(f"nodes={nodes} must be at least 1")
    time = site.time if request.time is None else request.time
    if seconds_of(time) <= site.supervision.warning_s:
        raise ConfigError(
            f"time={time} leaves nothing before the warning that comes "
            f"supervision.warning_s={site.supervision.warning_s} s ahead of the limit"
        )
    if (request.kind == "sweep") != bool(request.sweep):
        raise ConfigError("a sweep needs --vary key=a,b,c at least once, and no other job has it")
    sized = _Size(nodes=nodes, processes=site.processes_per_node, time=time)
    job = _PLANNERS[request.kind](request, sized)
    if job.kind in _LEARNING_KINDS:
        for config in job.configs:  # the ranks would refuse it as well, once the job has waited
            claim_run_dir(config, Path(config.run.dir), may_write=False)
    if request.server_nodes == 0 and not request.is_heterogeneous:
        return job
    return replace(job, servers=_plan_servers(request, job, site))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Size:
    """Fields of a job that do not depend on its kind."""

    nodes: int
    processes: int
    time: str


def run_dir_of(config: TrainConfig) -> Path:
    """Absolute path of a run, free of what a job script would have to quote.

    Raises:
        ConfigError: It holds white space or quotes.
    """
    path = Path(config.run.dir).absolute()
    check_plain(path, named="run.dir")
    return path


def check_plain(path: Path, *, named: str) -> None:
    """Refuse a path that a job script, or sbatch's own options, would have to quote.

    Raises:
        ConfigError: It holds white space, quotes or the like.
    """
    if re.search(r"[^A-Za-z0-9_./=+@,-]", str(path)):
        raise ConfigError(f"{named}={str(path)!r} may hold letters, digits and _./=+@,- only")


def _load(request: JobRequest, size: _Size, extra: Sequence[str] = ()) -> TrainConfig:
    given = Path(request.recipe)
    name = str(given / "config.json") if given.is_dir() else request.recipe
    config = load_config(name, [*request.overrides, *extra], TrainConfig)
    check_train_config(config, world_size=size.nodes * size.processes)
    absolute = str(run_dir_of(config))
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": absolute})})


def _plan_train(request: JobRequest, size: _Size) -> Job:
    config = _load(request, size)
    base = Path(config.run.dir)
    return Job(
        kind="train",
        name=config.run.name,
        base=base,
        **asdict(size),
        steps=config.trainer.steps,
        arguments=("-m", "megatron_longrlvr", "train", str(base / "job" / "recipe.json")),
        configs=(config,),
    )


def _plan_evaluate(request: JobRequest, size: _Size) -> Job:
    config = _load(request, size)
    if config.evaluation is None:
        raise ConfigError(f"{request.recipe} has no evaluation section: nothing to measure")
    run = Path(config.run.dir)
    base = run / "evaluate"
    arguments = ("-m", "megatron_longrlvr", "evaluate", str(run), *request.overrides)
    return Job(
        kind="evaluate",
        name=f"{config.run.name}-evaluate",
        base=base,
        **asdict(size),
        arguments=(*arguments, "--json", str(base / "metrics.json")),
        configs=(config,),
    )


def _plan_convert(request: JobRequest, size: _Size) -> Job:
    config = _load(request, size)
    run = Path(config.run.dir)
    base = run / "convert"
    tool = str(CHECKOUT / "tools" / "megatron_to_hf.py")
    return Job(
        kind="convert",
        name=f"{config.run.name}-convert",
        base=base,
        **asdict(size),
        arguments=(tool, str(run), str(base / "hf"), "--overwrite"),
        configs=(config,),
    )


def _plan_sweep(request: JobRequest, size: _Size) -> Job:
    root = run_dir_of(_load(request, size))
    configs = []
    for index, combination in enumerate(combinations(request.sweep)):
        place = [f"run.dir={root}/{index:03d}", f"run.name={root.name}-{index:03d}"]
        configs.append(_load(request, size, [*combination, *place]))
    return Job(
        kind="sweep",
        name=f"{root.name}-sweep",
        base=root,
        **asdict(size),
        steps=configs[0].trainer.steps,
        configs=tuple(configs),
        array=len(configs),
    )


def _plan_servers(request: JobRequest, job: Job, site: Site) -> ServerGroup:
    """The servers that a training job is to have on nodes of their own."""
    if job.kind != "train" or request.server_nodes < 1:
        raise ConfigError(
            f"--server-nodes {request.server_nodes}: servers belong to --job train, and "
            "--heterogeneous needs at least one node for them"
        )
    if site.servers.node is not None and not request.is_heterogeneous:
        raise ConfigError(
            "servers.node of the profile asks for nodes of another kind, which one request cannot; "
            "use --heterogeneous"
        )
    rollout = job.configs[0].rollout
    if rollout.engine != "vllm_server" or rollout.server.urls:
        raise ConfigError(
            f"--server-nodes {request.server_nodes} needs rollout.engine=vllm_server and no "
            f"rollout.server.urls, got {rollout.engine} and {rollout.server.urls}"
        )
    server = rollout.server
    if server.transport == "files" and server.transfer_dir.startswith(_NODE_LOCAL):
        raise ConfigError(
            f"rollout.server.transfer_dir={server.transfer_dir} is memory or disk of one node; set "
            "rollout.server.transport=broadcast, or name a folder that the servers' nodes share "
            "with the trainer's"
        )
    gpus, wanted = site.server_node.gpus, rollout.vllm.tensor_parallel
    if gpus and wanted > gpus:
        raise ConfigError(
            f"rollout.vllm.tensor_parallel={wanted} is above the {gpus} GPUs of a server's node"
        )
    recipe = str(job.folder / "recipe.json")
    return ServerGroup(
        nodes=request.server_nodes,
        per_node=max(gpus // wanted, 1),
        is_heterogeneous=request.is_heterogeneous,
        arguments=("-m", "megatron_longrlvr", "serve", recipe, "--port", "{port}"),
    )


def _plan_data(request: JobRequest, size: _Size) -> Job:
    stage = load_stage(request.recipe, request.overrides)
    if request.nodes not in {None, 1}:
        raise ConfigError(f"--nodes {request.nodes}: a shard runs on one node; use more shards")
    sized = asdict(size) | {"nodes": 1, "processes": 1}
    base = Path(stage.dir).absolute()
    check_plain(base, named="dir")
    return Job(
        kind="data",
        name=stage.name,
        base=base,
        **sized,
        stage=stage,
        steps=STAGE_STEPS,
        array=stage.shards,
    )


def combinations(varied: Sequence[str]) -> list[tuple[str, ...]]:
    """Overrides of every combination, the last key varying fastest.

    Raises:
        ConfigError: An entry does not read ``key=a,b``.
    """
    choices = []
    for entry in varied:
        key, separator, values = entry.partition("=")
        if not key or not separator or "" in values.split(","):
            raise ConfigError(f"--vary {entry!r} must read key=a,b,c")
        choices.append([f"{key}={value}" for value in values.split(",")])
    return list(itertools.product(*choices))


_LEARNING_KINDS = frozenset({"train", "sweep"})

_PLANNERS: dict[JobKind, Callable[[JobRequest, _Size], Job]] = {
    "train": _plan_train,
    "evaluate": _plan_evaluate,
    "convert": _plan_convert,
    "sweep": _plan_sweep,
    "data": _plan_data,
}
