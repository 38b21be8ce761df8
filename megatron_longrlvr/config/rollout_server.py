"""Settings of rollout servers: vLLM in processes of its own, asked over HTTP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from megatron_longrlvr.config.section import Section


class RolloutServerConfig(Section):
    """Read where ``rollout.engine=vllm_server``; the engine's own settings are ``rollout.vllm``."""

    num_servers: int = Field(default=1, gt=0)
    """Servers that the run starts on the node of its first rank, and ends with itself."""

    urls: list[str] = []
    """Base addresses of servers that were started by other means, e.g. ``http://node7:8000``; with
    any, none is started here. They need the options that the run's own ones are started with."""

    start_timeout_s: float = Field(default=600.0, gt=0)
    """From start to readiness."""

    health_every_s: float = Field(default=2.0, gt=0)
    health_timeout_s: float = Field(default=10.0, gt=0)
    health_failures: int = Field(default=3, gt=0)
    """Health checks in a row without a good answer after which a server counts as down: what it is
    writing is sent to others."""

    request_timeout_s: float = Field(default=1800.0, gt=0)
    """For one response; longer, and the server counts as hung for this request."""

    update_timeout_s: float = Field(default=600.0, gt=0)
    """For one call of an update, waiting for running samples included."""

    max_attempts: int = Field(default=5, gt=0)
    """Times that one response is asked for before the run stops."""

    recovery_timeout_s: float = Field(default=60.0, gt=0)
    """Time without any server that is up after which the run stops."""

    in_flight_updates: bool = False
    """Change the weights while samples are being written, which go on with the new ones; otherwise
    an update waits for those that a server has begun."""

    transport: Literal["files", "broadcast"] = "files"
    """How weights get to the servers: as files in ``transfer_dir``, or by broadcast to the workers
    of all servers at once (NCCL on GPU, gloo on CPU)."""

    broadcast_timeout_s: float = Field(default=60.0, gt=0)
    """For one bucket to reach all servers, and for them to come together before. A server that is
    lost meanwhile is left out of the update, and the others get the bucket again."""

    broadcast_senders: int = Field(default=1, gt=0)
    """Ranks that broadcast, the first ones of the run, each every n-th bucket by way of its own
    network adapter; ``layout.tp`` of them keep those of a node busy. A worker of a server holds a
    bucket of each at a time."""

    transfer_dir: str = "/dev/shm"
    """Where weights are handed over, as files: in memory, or on a file system that servers on other
    nodes share with the first rank."""
