"""Plain TCP streams of asyncio for httpcore.

Its own ones go through anyio, which takes half of the processor time of a request; with dozens of
requests under way on one core that is what delays them. Connections over TLS use httpcore's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2


class PlainStream(httpcore2.AsyncNetworkStream):
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _translated(httpcore2.ReadError, httpcore2.ReadTimeout):
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _translated(httpcore2.WriteError, httpcore2.WriteTimeout):
            self._writer.write(buffer)
            async with asyncio.timeout(timeout):
                await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()
        with suppress(OSError):  # the other side was faster
            await self._writer.wait_closed()

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - as upstream declares it
        """Of what httpcore asks for, whether an idle connection has ended."""
        return self._reader.at_eof() if info == "is_readable" else None


class PlainStreams(httpcore2.AsyncNetworkBackend):
    """Opens connections without TLS."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        assert local_address is None, "nobody chooses the local address"
        assert socket_options is None, "nor options"
        with _translated(httpcore2.ConnectError, httpcore2.ConnectTimeout):
            async with asyncio.timeout(timeout):
                return PlainStream(*await asyncio.open_connection(host, port))


@contextmanager
def _translated(error: type[Exception], timeout: type[Exception]) -> Iterator[None]:
    """Errors of asyncio as those of httpcore."""
    try:
        yield
    except TimeoutError as late:  # an OSError too, so it comes first
        raise timeout(str(late)) from late
    except OSError as broken:
        raise error(str(broken)) from broken
