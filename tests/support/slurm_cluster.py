"""A real Slurm of several nodes on this machine, for the length of a test session.

The nodes are namespaces (see cluster.sh); ``cut_power`` kills everything on one of them at once.
Where this machine can make networks, each node has one of its own, which can be cut and slowed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launch.slurm import JobState, job_state

SCRIPT = Path(__file__).parent / "cluster.sh"
POLL_S = 0.3
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter", "setsid", "pgrep")

NODES = 3
BIG_NODES = 64
"""Nodes that exist on paper only, in the partition ``big``."""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    if os.geteuid() != 0:
        return "a Slurm of several nodes on one machine needs root"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)"
    namespaces = ["unshare", "--uts", "--pid", "--mount", "--fork", "--mount-proc", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "this root may not make namespaces"
    return None


def can_cut_networks() -> bool:
    """Whether nodes can have networks of their own here."""
    probe = (
        "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2 && "
        "tc qdisc add dev probe1 root tbf rate 10mbit burst 64k latency 200ms"
    )
    command = ["unshare", "--net", "sh", "-c", probe]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running cluster; the clients of this process speak to it."""

    run: Path

    def command(self, *arguments: str) -> None:
        """Run cluster.sh."""
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments],
            env=_environment(self.run),
            # Its daemons would hold a pipe open, so their output goes to a file.
            stdout=(self.run / "cluster.log").open("a"),
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError((self.run / "cluster.log").read_text())

    def cut_power(self, node: str) -> None:
        """Kill slurmd and every process of a node at once."""
        self.command("kill-node", node)

    def start_node(self, node: str) -> None:
        """Boot a node again."""
        self.command("start-node", node)
        wait_for(lambda: self._is_idle(node), f"{node} to be idle", limit_s=300)

    def cut_network(self, node: str) -> None:
        """Nothing gets to a node or away from it; what runs on it goes on."""
        self.command("cut-net", node)

    def slow_network(self, node: str, rate: str) -> None:
        """What is sent to a node gets there at ``rate``, such as ``10mbit``."""
        self.command("slow-net", node, rate)

    def join_network(self, node: str) -> None:
        """A node's network is whole again."""
        self.command("join-net", node)
        if self._state(node).startswith("down"):
            # Slurm would ask after it by itself, a minute later.
            slurm("scontrol", "update", f"NodeName={node}", "State=RESUME")
        wait_for(lambda: self._is_idle(node), f"{node} to be idle", limit_s=300)

    def _is_idle(self, node: str) -> bool:
        return self._state(node) == "idle"

    def _state(self, node: str) -> str:
        return slurm("sinfo", "-h", "-n", node, "-p", "batch", "-o", "%t").strip()


def slurm(*command: str) -> str:
    """Output of one of Slurm's commands."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def wait_for(condition: Callable[[], object], what: str, *, limit_s: float) -> None:
    """Poll until ``condition`` is true.

    Raises:
        TimeoutError: It was not within the limit.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit_s:g} s for {what}")
        time.sleep(POLL_S)


def wait_for_end(job_id: str, *, limit_s: float = 600) -> JobState:
    """State of a job once it will not run again."""
    wait_for(lambda: job_state(job_id).has_ended, f"job {job_id} to end", limit_s=limit_s)
    return job_state(job_id)


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Bring a cluster up; down again at the end. One at a time on a machine."""
    cluster = Cluster(run=folder / "slurm")
    cluster.run.mkdir()
    with Path("/tmp/longrlvr-slurm-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(cluster.run / "slurm.conf")
        try:
            cluster.command("up")
            yield cluster
        finally:
            cluster.command("down")
            os.environ.pop("SLURM_CONF")
            if before is not None:
                os.environ["SLURM_CONF"] = before


def _environment(run: Path) -> dict[str, str]:
    net = "ns" if can_cut_networks() else "lo"
    settings = {"NODES": NODES, "GPUS": 8, "CPUS": 64, "BIG": BIG_NODES, "NET": net}
    return {
        **os.environ,
        "RUN": str(run),
        **{key: str(value) for key, value in settings.items()},
    }
