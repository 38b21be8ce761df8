"""Several servers as one: which of them is up, and every request answered exactly once.

A server is up while it answers health checks and holds the weights of the last update. One that
does not is down: what it was writing is sent to another, with the seed it had, so the same tokens
come. A server that is back with old weights stays down until the next update reaches it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from megatron_longrlvr.config.rollout_server import RolloutServerConfig
from megatron_longrlvr.rollout.server_client import (
    RequestRefused,
    ServerClient,
    ServerFault,
    WrittenSample,
)
from megatron_longrlvr.stages import PolicyVersion

# Between two looks for a server that is up.
_WAIT_S = 0.05
# Pause after the first failure of a request; doubles with each further one.
_BACKOFF_S = 0.05

_Value = TypeVar("_Value")


class ServersFailed(RuntimeError):  # noqa: N818 - read as "the servers failed"
    """No server wrote a sample, or took an update."""


class _Server:
    """A server as the pool sees it."""

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self.is_up = False
        self.num_failures = 0
        """Health checks in a row."""

        self.last_failure = "not asked yet"
        self.tasks: set[asyncio.Task[Any]] = set()
        """What it is doing; given up when it goes down."""


class ServerPool:
    """Writes samples with whatever servers are up. Belongs to one event loop."""

    def __init__(
        self, urls: Sequence[str], config: RolloutServerConfig, *, max_concurrent: int
    ) -> None:
        """Ask nothing yet.

        Args:
            urls: Base addresses.
            config: The recipe's servers.
            max_concurrent: Requests under way at one server.
        """
        self._config = config
        self._servers = [
            _Server(ServerClient(url, config, max_concurrent=max_concurrent)) for url in urls
        ]
        self._version: str | None = None
        """That servers must hold; None while an update is on its way."""

        self._last_version: str | None = None
        """Of the last update."""

        self._updating: list[_Server] = []
        self._watchers: list[asyncio.Task[None]] = []
        self.num_resent = 0
        """Requests that were sent again, ever."""

    async def hold(self, version: PolicyVersion) -> None:
        """Use the servers that hold this version from now on, and begin to watch them."""
        self._version = self._last_version = str(version)
        await asyncio.gather(*(self._check(server) for server in self._servers))
        self._start_watching()

    async def write(self, request: Mapping[str, Any], *, place: int) -> WrittenSample:
        """Have one sample written.

        Args:
            request: For vLLM's route that takes and gives tokens.
            place: Requests of the same place prefer the same server, for its prefix cache.

        Raises:
            RequestRefused: A server finds fault with the request.
            ServersFailed: It was sent as often as it may be, or no server is up.
        """
        problem = ""
        for attempt in range(self._config.max_attempts):
            if attempt > 0:
                self.num_resent += 1
                await asyncio.sleep(_BACKOFF_S * 2**attempt)
            server = await self._choose(place + attempt)
            try:
                return await _run(server, server.client.write(request))
            except ServerFault as fault:
                problem = str(fault)
        raise ServersFailed(
            f"a sample was asked for {self._config.max_attempts} times "
            f"(rollout.server.max_attempts) and never written; the last time: {problem}"
        )

    async def update(
        self, action: Callable[[ServerClient], Coroutine[Any, Any, _Value]]
    ) -> dict[str, _Value]:
        """Do something with every server that was admitted; one that fails is out and down.

        So is one that does not answer its health checks meanwhile.

        Returns:
            What came of it, by address.

        Raises:
            ServersFailed: No server is left.
            ServerFault: A server that is well says that it could not.
            RequestRefused: A server finds fault with what is asked.
        """
        servers = self._updating
        results = await asyncio.gather(
            *(_run(server, action(server.client)) for server in servers), return_exceptions=True
        )
        done: dict[str, _Value] = {}
        for server, result in zip(tuple(servers), results, strict=True):
            if isinstance(result, ServerFault) and not await self._is_refusal(server, result):
                self._take_down(server, str(result))
                self._updating.remove(server)
            elif isinstance(result, BaseException):
                raise result
            else:
                done[server.client.url] = result
        if not done:
            raise ServersFailed(f"no rollout server is left: {self._failures()}")
        return done

    async def admit_for_update(self) -> frozenset[str]:
        """Begin an update of every server that answers, whatever weights it holds.

        Until ``hold`` is called, those that were up write on and no other one begins to.

        Returns:
            Addresses of those that do not hold the weights of the last update: they were not in
            it, or have been started again since.
        """
        self._version = None
        versions = await asyncio.gather(*(self._ask_version(server) for server in self._servers))
        held = dict(zip(self._servers, versions, strict=True))
        self._updating = [server for server, version in held.items() if version]
        self._start_watching()
        return frozenset(
            server.client.url for server in self._updating if held[server] != self._last_version
        )

    async def close(self) -> None:
        for server in self._servers:
            await server.client.close()

    async def _choose(self, place: int) -> _Server:
        """The server for a place, or the next one that is up; waits for one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.recovery_timeout_s
        while loop.time() < deadline:
            for offset in range(len(self._servers)):
                server = self._servers[(place + offset) % len(self._servers)]
                if server.is_up:
                    return server
            await asyncio.sleep(_WAIT_S)
        raise ServersFailed(
            f"no rollout server was up for {self._config.recovery_timeout_s:g} s "
            f"(rollout.server.recovery_timeout_s): {self._failures()}"
        )

    async def _is_refusal(self, server: _Server, fault: ServerFault) -> bool:
        """Whether a fault came from a server that is well."""
        if not fault.is_answer:
            return False
        try:
            await server.client.version(timeout_s=self._config.health_timeout_s)
        except (ServerFault, RequestRefused):
            return False
        return True

    def _start_watching(self) -> None:
        if not self._watchers:
            self._watchers = [asyncio.create_task(self._watch(server)) for server in self._servers]

    async def _watch(self, server: _Server) -> None:
        while True:
            await asyncio.sleep(self._config.health_every_s)
            await self._check(server)

    async def _check(self, server: _Server) -> None:
        expected = self._version
        if expected is None:
            # In the middle of an update an engine cannot tell its version.
            is_well = await self._is_well(server)
            held = None
        else:
            held = await self._ask_version(server)
            is_well = held is not None
        if not is_well:
            if server.num_failures >= self._config.health_failures:
                self._take_down(server, server.last_failure)
        elif held is not None and self._version == expected:
            if held == expected:
                server.is_up = True
            else:
                self._take_down(server, f"holds version {held} instead of {expected}")

    async def _ask_version(self, server: _Server) -> str | None:
        """Version that a server holds; None where it is not well."""
        return await self._ask(server, server.client.version)

    async def _is_well(self, server: _Server) -> bool:
        return await self._ask(server, server.client.check_health) is not None

    async def _ask(self, server: _Server, question: Callable[..., Awaitable[str]]) -> str | None:
        limit = self._config.health_timeout_s
        try:
            async with asyncio.timeout(limit):
                answer = await question(timeout_s=limit)
        except (ServerFault, RequestRefused, TimeoutError) as failure:
            server.num_failures += 1
            server.last_failure = str(failure) or "a health check timed out"
            return None
        server.num_failures = 0
        return answer

    def _take_down(self, server: _Server, reason: str) -> None:
        server.is_up = False
        server.last_failure = reason
        for task in server.tasks:
            task.cancel()

    def _failures(self) -> str:
        return "; ".join(f"{server.client.url}: {server.last_failure}" for server in self._servers)


async def _run(server: _Server, work: Coroutine[Any, Any, _Value]) -> _Value:
    """Have a server do something for as long as it is not taken down.

    Raises:
        ServerFault: It is, or fails.
    """
    task = asyncio.create_task(work)
    server.tasks.add(task)
    try:
        return await task
    except asyncio.CancelledError:
        own = asyncio.current_task()
        if own is None or own.cancelling():  # it is this request that was given up
            raise
        raise ServerFault(f"{server.client.url}: {server.last_failure}") from None
    finally:
        server.tasks.discard(task)
        task.cancel()
