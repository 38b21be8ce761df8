"""Rollout servers as processes: their command line, start, readiness and end."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from megatron_longrlvr.config.vllm import VllmConfig
from megatron_longrlvr.observability.heartbeat import beat
from megatron_longrlvr.parallel.device import has_cuda
from megatron_longrlvr.refit.settings import SERVER_BACKEND, SERVER_EXTENSION
from megatron_longrlvr.rollout.vllm_library import (
    DTYPES,
    EngineShape,
    cache_settings,
    chunks_prefill,
)

_HOST = "127.0.0.1"
_POLL_S = 0.2
_PROBE_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 15.0
_TAIL_LINES = 15
# What a launcher tells the ranks of the run; a server would take itself for one of them.
_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCommand:
    """What a server is started with."""

    arguments: Sequence[str]
    """Options of vLLM's server, but for host and port."""

    environment: Mapping[str, str]
    """Besides this process's own."""


def server_command(shape: EngineShape, config: VllmConfig) -> ServerCommand:
    """Options under which a server samples as a run expects it."""
    options: dict[str, object] = {
        "--model": shape.model_folder,
        "--dtype": DTYPES[shape.dtype],
        "--max-model-len": shape.max_model_len,
        "--max-num-seqs": shape.max_concurrent_samples,
        "--tensor-parallel-size": config.tensor_parallel,
        "--generation-config": "vllm",  # the folder's would change how tokens are chosen
        "--logprobs-mode": "processed_logprobs",  # after the temperature
        "--weight-transfer-config": f'{{"backend": "{SERVER_BACKEND}"}}',
        "--worker-extension-cls": SERVER_EXTENSION,
        "--seed": 0,  # samples bring seeds of their own
        **{f"--{name.replace('_', '-')}": size for name, size in cache_settings(config).items()},
    }
    flags = ["--skip-tokenizer-init", "--enable-scale-out", "--disable-log-stats"]
    flags.append(_switch("enable-prefix-caching", config.prefix_caching))
    flags.append(_switch("enable-chunked-prefill", chunks_prefill(config)))
    if config.enforce_eager:
        flags.append("--enforce-eager")
    environment = {
        "VLLM_SERVER_DEV_MODE": "1",  # has the routes of an update
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
    }
    if config.enforce_eager and not has_cuda():
        # vLLM's sampler is compiled at its first token otherwise.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return ServerCommand(
        arguments=[*(str(part) for option in options.items() for part in option), *flags],
        environment=environment,
    )


class ServerProcess:
    """A server on this node, in a process group of its own."""

    def __init__(self, command: ServerCommand, *, log: Path) -> None:
        """Start it.

        Args:
            command: From ``server_command``.
            log: File that it writes to.
        """
        self._log = log
        port = _free_port()
        self.url = f"http://{_HOST}:{port}"
        environment = {
            name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "megatron_longrlvr.rollout.serve", str(os.getpid())),
                    *("--host", _HOST, "--port", str(port), *command.arguments),
                ],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**environment, **command.environment},
                start_new_session=True,
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """Also that of the process group."""
        return self._process.pid

    def wait_until_ready(self, *, deadline: float) -> None:
        """Return once it answers health checks.

        Args:
            deadline: On the monotonic clock.

        Raises:
            RuntimeError: It ended, or is not ready in time; with the end of its log.
        """
        while not _is_well(self.url):
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"the rollout server ended with status {self._process.returncode} before it "
                    f"was ready; {self._log} ends with:\n{self._tail()}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the rollout server is not ready in time (rollout.server.start_timeout_s); "
                    f"{self._log} ends with:\n{self._tail()}"
                )
            beat()
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End it and all its children; does nothing where it has ended."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


def start_servers(
    command: ServerCommand, *, count: int, logs: Path, timeout_s: float
) -> list[ServerProcess]:
    """Start servers side by side and wait until all of them are ready.

    Raises:
        RuntimeError: One is not; the others are ended.
    """
    servers: list[ServerProcess] = []
    deadline = time.monotonic() + timeout_s
    try:
        for place in range(count):
            servers.append(ServerProcess(command, log=logs / f"rollout_server_{place}.log"))
        for server in servers:
            server.wait_until_ready(deadline=deadline)
    except BaseException:
        for server in servers:
            server.stop()
        raise
    return servers


def _switch(name: str, is_on: bool) -> str:
    return f"--{name}" if is_on else f"--no-{name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _is_well(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_PROBE_TIMEOUT_S) as reply:
            return bool(reply.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False
