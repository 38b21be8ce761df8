"""Connections to one HTTP server, and what may go wrong on them.

Each request in flight has a connection of its own, kept open for the next one. One pool of n
connections would be searched from end to end for every request, which at 64 in flight costs more
than the rest of the request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import httpcore2

from megatron_longrlvr.http.streams import PlainStreams


class HttpTrouble(StrEnum):
    """Why a request has no reply."""

    TIMEOUT = "timeout"
    BROKEN_REPLY = "broken reply"
    CONNECTION = "no connection"


class HttpFailure(Exception):  # noqa: N818 - a value that travels as an exception, never shown
    """A request without a reply."""

    def __init__(self, trouble: HttpTrouble) -> None:
        super().__init__(trouble.value)
        self.trouble = trouble


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpTimeouts:
    """Seconds after which a request is given up."""

    connect_s: float
    read_s: float
    """Between two pieces of a reply, and of a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[bytes, bytes]
    """Names in small letters."""

    content: bytes


class Connections:
    """A number of connections to one server. Belongs to one event loop."""

    def __init__(
        self, url: str, *, count: int, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Open none yet.

        Args:
            url: Scheme, host, port, and what all paths start with.
            count: Requests under way at the same time.
            headers: Sent with every request.
        """
        self._url = url.rstrip("/")
        self._headers = [
            (b"host", url.split("/")[2].encode()),
            (b"content-type", b"application/json"),
            *headers,
        ]
        self._connections = _open(url, count)
        self._free = list(self._connections)
        self._places = asyncio.Semaphore(count)

    async def request(self, method: str, path: str, body: bytes, timeouts: HttpTimeouts) -> Reply:
        """Send a request when a connection is free, and read its reply.

        Raises:
            HttpFailure: There is none.
        """
        async with self._places:
            connection = self._free.pop()
            try:
                return await self._exchange(connection, self._build(method, path, body, timeouts))
            finally:
                self._free.append(connection)

    async def close(self) -> None:
        for connection in self._connections:
            await connection.aclose()

    def _build(
        self, method: str, path: str, body: bytes, timeouts: HttpTimeouts
    ) -> httpcore2.Request:
        return httpcore2.Request(
            method,
            httpcore2.URL(f"{self._url}{path}"),
            headers=[*self._headers, (b"content-length", str(len(body)).encode())],
            content=body,
            extensions={
                "timeout": {
                    "connect": timeouts.connect_s,
                    "read": timeouts.read_s,
                    "write": timeouts.read_s,
                    "pool": None,
                }
            },
        )

    async def _exchange(
        self, connection: httpcore2.AsyncConnectionPool, request: httpcore2.Request
    ) -> Reply:
        try:
            response = await connection.handle_async_request(request)
            try:
                return Reply(
                    status=response.status,
                    headers={name.lower(): value for name, value in response.headers},
                    content=await response.aread(),
                )
            finally:
                await response.aclose()
        except httpcore2.TimeoutException:
            raise HttpFailure(HttpTrouble.TIMEOUT) from None
        except httpcore2.RemoteProtocolError:
            raise HttpFailure(HttpTrouble.BROKEN_REPLY) from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError):
            raise HttpFailure(HttpTrouble.CONNECTION) from None


def _open(url: str, count: int) -> list[httpcore2.AsyncConnectionPool]:
    is_plain = url.startswith("http://")
    # Shared, because reading certificates takes milliseconds.
    context = None if is_plain else httpcore2.default_ssl_context()
    return [
        httpcore2.AsyncConnectionPool(
            ssl_context=context,
            max_connections=1,
            network_backend=PlainStreams() if is_plain else None,
        )
        for _ in range(count)
    ]
