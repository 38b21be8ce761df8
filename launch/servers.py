"""The agent of one node's rollout servers, and where the trainer finds them.

    srun ... python -m launch.servers run --attempt DIR --servers 2 ... -- -m MODULE --port {port}
    python -m launch.servers addresses --attempt DIR --count 4 --wait 1800

``run`` starts the servers of its node, each at a port of its own, and writes the address of each
into the attempt's directory once it answers ``/health``. One that dies, or stops answering, is
started again at the same address, as often as its budget allows; then the job ends. Servers end
when the job script writes ``servers-stop``, when any other part of the job fails, and when asked by
a signal. ``addresses`` waits until all are ready and prints them, comma-separated.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from launch.agent import slurm_place
from launch.exit_reason import (
    EXIT_CODES,
    Cause,
    NodeExit,
    primary,
    read_node_exits,
    write_node_exit,
)
from launch.ports import reserved_port
from launch.rendezvous import Place
from launch.watch import STOP_FILE
from megatron_longrlvr.files import write_atomically

ROLE = "serve"
SERVERS_STOP_FILE = "servers-stop"
"""In the attempt's directory: the job needs no servers any more."""

_POLL_S = 0.5
_HEALTH_TIMEOUT_S = 5.0
# Between two questions to a server that is well.
_HEALTH_EVERY_S = 5.0
_STOP_GRACE_S = 15.0

_log = logging.getLogger("servers")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptions:
    """What one node serves."""

    attempt: Path
    num_servers: int
    """On this node; its GPUs are shared out evenly among them."""

    job_id: int
    command: Sequence[str]
    """Of the interpreter; ``{port}`` stands for the server's port."""

    start_timeout_s: float
    silence_timeout_s: float
    """A server that has not answered for so long counts as dead."""

    max_restarts: int
    """Of all servers of the node together."""


class _NoServers(RuntimeError):  # noqa: N818 - read as "no servers"
    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class Server:
    """One server: its process, and when it last answered."""

    def __init__(self, index: int, port: int, options: ServerOptions, place: Place) -> None:
        self._options = options
        self._path = options.attempt / f"server-{place.name}-{index}.json"
        self._url = f"http://{place.name}:{port}"
        self._health = f"http://127.0.0.1:{port}/health"
        self._command = [part.replace("{port}", str(port)) for part in options.command]
        self._environment = {**os.environ, **_devices(index, options.num_servers)}
        self.name = f"server {index} at {self._url}"
        self.was_ready = False
        """In this or in an earlier life."""

        self.start()

    def start(self) -> None:
        """Start it, again or for the first time."""
        self._process = subprocess.Popen(
            [sys.executable, *self._command], env=self._environment, start_new_session=True
        )
        self._is_ready = False
        self._asked = time.monotonic()
        self._silent_since: float | None = self._asked

    def problem(self) -> str | None:
        """Why the server has to be started again; None while it is well, or still starting."""
        code = self._process.poll()
        if code is not None:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return f"ended with {how}" + ("" if self._is_ready else " before it was ready")
        now = time.monotonic()
        if self._silent_since is None and now - self._asked < _HEALTH_EVERY_S:
            return None
        self._asked = now
        if _is_well(self._health):
            self._note_ready()
            return None
        if self._silent_since is None:
            self._silent_since = now
        limit = self._options.silence_timeout_s if self._is_ready else self._options.start_timeout_s
        silent_s = time.monotonic() - self._silent_since
        return f"did not answer for {limit:g} s" if silent_s > limit else None

    def _note_ready(self) -> None:
        if not self._is_ready:
            _log.info("%s is ready", self.name)
            write_atomically(self._path, json.dumps({"url": self._url}) + "\n")
        self._is_ready = self.was_ready = True
        self._silent_since = None

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self, *, grace_s: float = 0.0) -> None:
        """End it and what it has started."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=grace_s)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class ServerWatch:
    """The servers of one node from their start to the end of the job."""

    def __init__(self, servers: Sequence[Server], options: ServerOptions, place: Place) -> None:
        self._servers = servers
        self._options = options
        self._place = place
        self._num_restarts = 0
        self._signal_name: str | None = None

    def ask_to_stop(self, by: str) -> None:
        """End the servers; may be called from a signal handler."""
        self._signal_name = by

    def run(self) -> NodeExit:
        """Return when the servers are to end, or cannot be kept up."""
        while True:
            end = self._end_of_the_job() or self._look_at_servers()
            if end is not None:
                return end
            time.sleep(_POLL_S)

    def _end_of_the_job(self) -> NodeExit | None:
        if self._signal_name is not None:
            return self._exit(Cause.STOPPED, f"asked by {self._signal_name}")
        if (self._options.attempt / SERVERS_STOP_FILE).exists():
            return self._exit(Cause.FINISHED, "the job needs them no more")
        others = [
            reason for reason in read_node_exits(self._options.attempt) if reason.explains_others
        ]
        found = primary(others)
        if found is None:
            return None
        return self._exit(Cause.FOLLOWED, f"{found.role} on {found.node}: {found.detail}")

    def _look_at_servers(self) -> NodeExit | None:
        for server in self._servers:
            problem = server.problem()
            if problem is None:
                continue
            server.kill()
            if not server.was_ready:
                # What fails at its first start fails at the next one, too.
                return self._exit(Cause.FAILED, f"{server.name} {problem}")
            if self._num_restarts >= self._options.max_restarts:
                spent = f"max_server_restarts={self._options.max_restarts} are used up"
                return self._exit(Cause.SERVER, f"{server.name} {problem}, and {spent}")
            self._num_restarts += 1
            _log.warning("%s %s; starting it again", server.name, problem)
            server.start()
        return None

    def _exit(self, cause: Cause, detail: str) -> NodeExit:
        return NodeExit(
            role=ROLE, node=self._place.name, cause=cause, detail=detail, at=time.time()
        )


def run_servers(options: ServerOptions, place: Place) -> NodeExit:
    """Serve until the job ends and leave the reason for the others."""
    with ExitStack() as stack:
        servers: list[Server] = []
        watch = ServerWatch(servers, options, place)
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(
                number, lambda got, _: watch.ask_to_stop(signal.Signals(got).name)
            )
            stack.callback(signal.signal, number, before)
        stack.callback(_end_all, servers)
        for index in range(options.num_servers):
            # Apart from where the ranks of this job begin to look.
            port = stack.enter_context(reserved_port(options.job_id + 1 + index))
            servers.append(Server(index, port, options, place))
        _log.info("started %d servers", len(servers))
        reason = watch.run()
        # Before their end, which takes a while: the other parts of the job need not wait for it.
        write_node_exit(options.attempt, reason)
    _log.info("%s: %s", reason.cause.value, reason.detail)
    return reason


def wait_for_addresses(attempt: Path, *, count: int, wait_s: float) -> list[str]:
    """Addresses of all servers of the job, once they are ready.

    Raises:
        _NoServers: They are not ready in time, or the job was told to stop.
        RuntimeError: A node gave up on its servers.
    """
    deadline = time.monotonic() + wait_s
    while True:
        if (attempt / STOP_FILE).exists():
            raise _NoServers(Cause.STOPPED, "stopped while the rollout servers were starting")
        failed = primary([one for one in read_node_exits(attempt) if one.role == ROLE])
        if failed is not None:
            raise RuntimeError(f"{failed.node}: {failed.detail}")
        found = sorted(attempt.glob("server-*.json"))
        if len(found) >= count:
            return [json.loads(path.read_text(encoding="utf-8"))["url"] for path in found]
        if time.monotonic() > deadline:
            raise _NoServers(
                Cause.FAILED,
                f"{len(found)} of {count} rollout servers are ready after {wait_s:g} s",
            )
        time.sleep(_POLL_S)


def _end_all(servers: Sequence[Server]) -> None:
    for server in servers:
        server.terminate()
    deadline = time.monotonic() + _STOP_GRACE_S
    for server in servers:
        server.kill(grace_s=max(deadline - time.monotonic(), 0.0))


def _devices(index: int, count: int) -> dict[str, str]:
    """This server's share of the GPUs that the node gave to the step."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = given.split(",") if given else []
    share = len(devices) // count
    if share == 0:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[index * share : (index + 1) * share])}


def _is_well(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_HEALTH_TIMEOUT_S) as reply:
            return bool(reply.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False


def _run(parsed: argparse.Namespace) -> int:
    place = slurm_place()
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s servers {place.name}: %(message)s",
        stream=sys.stderr,
    )
    options = ServerOptions(
        attempt=parsed.attempt,
        num_servers=parsed.servers,
        job_id=int(os.environ["SLURM_JOB_ID"]),
        command=parsed.command[1:],
        start_timeout_s=parsed.start_timeout,
        silence_timeout_s=parsed.silence_timeout,
        max_restarts=parsed.max_restarts,
    )
    return EXIT_CODES[run_servers(options, place).cause]


def _addresses(parsed: argparse.Namespace) -> int:
    try:
        found = wait_for_addresses(parsed.attempt, count=parsed.count, wait_s=parsed.wait)
    except _NoServers as problem:
        reason = NodeExit(
            role="job",
            node=os.environ.get("SLURMD_NODENAME", ""),
            cause=problem.cause,
            detail=str(problem),
            at=time.time(),
        )
        write_node_exit(parsed.attempt, reason)
        print(f"servers: {problem}", file=sys.stderr)  # noqa: T201 - the job's log
        return 1
    except RuntimeError as error:  # that node has left its reason
        print(f"servers: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(",".join(found))  # noqa: T201 - the job script reads it
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve as a task of a Slurm step, or tell where the servers are."""
    parser = argparse.ArgumentParser(prog="python -m launch.servers", description=__doc__)
    actions = parser.add_subparsers(required=True)
    run = actions.add_parser("run")
    run.set_defaults(action=_run)
    run.add_argument("--attempt", type=Path, required=True)
    run.add_argument("--servers", type=int, required=True, help="on this node")
    run.add_argument("--start-timeout", type=float, required=True, help="seconds")
    run.add_argument("--silence-timeout", type=float, required=True, help="seconds")
    run.add_argument("--max-restarts", type=int, required=True)
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    addresses = actions.add_parser("addresses")
    addresses.set_defaults(action=_addresses)
    addresses.add_argument("--attempt", type=Path, required=True)
    addresses.add_argument("--count", type=int, required=True)
    addresses.add_argument("--wait", type=float, required=True, help="seconds")
    parsed = parser.parse_args(arguments)
    code: int = parsed.action(parsed)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
