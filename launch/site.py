"""Site profile: what a job script must know about one cluster.

One YAML file per cluster, ``slurm/sites/example.yaml`` for all keys. Read and checked like a
recipe: strict types, no unknown keys, every complaint with its dotted key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from megatron_longrlvr.config.load import parse_config, read_sections
from megatron_longrlvr.config.section import Section
from megatron_longrlvr.errors import ConfigError

SITES = Path(__file__).parent.parent / "slurm" / "sites"


def _refuse_number(value: object) -> object:
    if isinstance(value, int):
        raise ValueError("must be in quotes, for YAML takes 12:00:00 for a number of seconds")
    return value


TimeLimit = Annotated[
    str, BeforeValidator(_refuse_number), Field(pattern=r"^(\d+-)?\d{1,2}:\d{2}:\d{2}$")
]
"""``HH:MM:SS`` or ``D-HH:MM:SS``."""

# One word of a job script: nothing that a shell or sbatch would read as more than that.
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:=@%+/\[\]-]+$")]
_Constraint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.&|*()\[\]-]+$")]
_VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]

# Seconds for the job script to record why it ended and to ask for its requeue.
CONCLUDE_S = 20


class NoContainer(Section):
    """Steps run in the node's own environment."""

    kind: Literal["none"] = "none"


class PyxisContainer(Section):
    """Steps run through the Pyxis plugin (``srun --container-image``)."""

    kind: Literal["pyxis"]
    image: _Word
    mounts: list[_Word] = []
    """``SOURCE:TARGET[:OPTIONS]``."""

    options: list[_Word] = []
    """Further options of srun, such as ``--container-writable``."""


class ApptainerContainer(Section):
    """Steps run through ``apptainer exec``."""

    kind: Literal["apptainer"]
    image: _Word
    mounts: list[_Word] = []
    options: list[_Word] = ["--nv"]


Container = Annotated[
    NoContainer | PyxisContainer | ApptainerContainer, Field(discriminator="kind")
]


class NodeSection(Section):
    """What a job takes of each node."""

    gpus: int = Field(default=8, ge=0)
    """0: a CPU-only job."""

    gpu_request: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    """How this cluster wants them asked for: ``--gpus-per-node=8`` or ``--gres=gpu:8``."""

    gpu_type: _Word | None = None
    """Goes before the count, ``gpu:h100:8``."""

    cpus: int | None = Field(default=None, gt=0)
    """Cores of a node; left to Slurm if None."""

    memory: _Word | None = "0"
    """``--mem``; ``0`` is all of the node's. Left to Slurm if None."""

    exclusive: bool = True
    processes: int | None = Field(default=None, gt=0)
    """Ranks on each node; one for each GPU if None, and one where there is none."""


class SupervisionSection(Section):
    """When a job is stopped, ended and started again."""

    warning_s: int = Field(default=300, ge=30, le=65_535)
    """Slurm warns the job this long before its time limit or its preemption; it then stops after
    the step in progress, saves and is requeued."""

    stop_grace_s: int = Field(default=240, gt=0)
    """For that step and its checkpoint; then the ranks are killed and the requeued job goes on
    from the checkpoint before."""

    kill_grace_s: int = Field(default=60, gt=0)
    """For the other ranks to finish a checkpoint in flight after one of them has died."""

    hang_timeout_s: int = Field(default=1800, ge=0)
    """Ranks that do not get from one part of a step to the next for so long count as hung: their
    stacks go to the log and they are killed. 0 waits for ever."""

    lost_node_wait_s: int = Field(default=300, ge=0)
    """After ranks vanished without a word: time for Slurm to notice that their node is down and
    requeue the job on others, before the job requeues itself."""

    max_restarts: int = Field(default=20, ge=0)
    """Requeues of one job, whatever their cause."""

    max_stalled: int = Field(default=2, ge=0)
    """Restarts in a row from one and the same checkpoint; the next one ends the job."""

    server_start_timeout_s: int = Field(default=1800, gt=0)
    """For rollout servers on nodes of their own: from start to the first good health check."""

    server_silence_timeout_s: int = Field(default=120, gt=0)
    """A rollout server without a good health check for so long is started again."""

    max_server_restarts: int = Field(default=3, ge=0)
    """Of the servers of one node, before their death ends the job."""

    @model_validator(mode="after")
    def _leaves_time_to_conclude(self) -> SupervisionSection:
        if self.stop_grace_s > self.warning_s - CONCLUDE_S:
            raise ValueError(
                f"stop_grace_s={self.stop_grace_s} must end {CONCLUDE_S} s before "
                f"warning_s={self.warning_s} is over, to leave time for the requeue"
            )
        return self


class PreflightSection(Section):
    """What is asked of every node before the ranks start; unfit ones are excluded on a requeue."""

    enabled: bool = True
    wait_s: int = Field(default=60, gt=0)
    """For a file written on the first node to appear on the others."""

    max_skew_s: float = Field(default=5.0, gt=0)
    """Between the clocks of two nodes."""

    all_reduce_mib: int = Field(default=64, ge=0)
    """Size of the tensor that every node adds up with either neighbour, with NCCL on all GPUs, with
    gloo where there are none. A node that cannot is unfit. 0: none is exchanged."""

    min_all_reduce_gb_per_s: float = Field(default=0.0, ge=0)
    """Bus bandwidth, as nccl-tests define it, below which a node is unfit as well. The log of a job
    tells what its nodes reach."""

    all_reduce_timeout_s: int = Field(default=60, gt=0)
    """For the exchange of two nodes, from the start of its processes."""


class ServerNodesSection(Section):
    """Nodes for rollout servers, in jobs that have any."""

    node: NodeSection | None = None
    """Like the profile's ``node`` if None."""

    partition: _Word | None = None
    """Of their part of a heterogeneous job; the profile's if None."""

    constraint: _Constraint | None = None


class Site(Section):
    """One cluster."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    partition: _Word | None = None
    account: _Word | None = None
    qos: _Word | None = None
    constraint: _Constraint | None = None
    reservation: _Word | None = None
    exclude: list[_Word] = []
    """Nodes that jobs stay away from."""

    directives: list[_Word] = []
    """Further ``#SBATCH`` options, such as ``--switches=1``."""

    nodes: int = Field(default=1, gt=0)
    """Of a job; ``--nodes`` on the command line replaces it."""

    time: TimeLimit = "04:00:00"
    """Limit of a job; ``--time`` replaces it."""

    node: NodeSection = NodeSection()
    servers: ServerNodesSection = ServerNodesSection()
    modules: list[_Word] = []
    """Loaded in the job script, in this order."""

    setup: list[str] = []
    """Shell lines run on the first node after the modules; what they export reaches every rank."""

    python: _Word = "python"
    """Interpreter inside the steps, and inside the container where there is one."""

    container: Container = NoContainer()
    env: dict[_VariableName, str] = {}
    """Variables of every rank: NCCL, fabric, caches."""

    preflight: PreflightSection = PreflightSection()
    supervision: SupervisionSection = SupervisionSection()

    @property
    def server_node(self) -> NodeSection:
        """What a job takes of a node with rollout servers."""
        return self.servers.node or self.node

    @property
    def processes_per_node(self) -> int:
        """Ranks on each node."""
        return self.node.processes or max(self.node.gpus, 1)


def find_site(name: str) -> Path:
    """Path of a profile given as a file or by the name of one under ``slurm/sites``.

    Raises:
        ConfigError: Neither exists.
    """
    for candidate in (Path(name), SITES / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in SITES.glob("*.yaml")))
    raise ConfigError(f"no site profile {name!r}: give a YAML file or one of {known}")


def load_site(name: str) -> Site:
    """Read a site profile.

    Raises:
        ConfigError: Names the file and the key.
    """
    path = find_site(name)
    return parse_config(read_sections(path), Site, origin=str(path))


def seconds_of(limit: str) -> int:
    """Seconds of a :data:`TimeLimit`.

    Raises:
        ConfigError: It is none.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d{1,2}):(\d{2}):(\d{2})", limit)
    if match is None:
        raise ConfigError(f"time={limit!r} must read HH:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
