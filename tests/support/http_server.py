"""A real HTTP server in a thread, whose replies may be late, cut off, or never come."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class HttpReply:
    """What goes out."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    latency_s: float = 0.0
    sent_share: float = 1.0
    """Below 1 the connection breaks off in the middle of the reply; at 0 before it."""

    hangs: bool = False
    """Nothing is sent and the connection stays open."""


class HttpServer:
    """Answers while it is entered; subclasses say what."""

    def __init__(self) -> None:
        self.num_open = 0
        self.most_open = 0
        """Most requests that were being answered at the same time."""

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    async def answer(self, route: str, headers: dict[str, str], payload: Any) -> HttpReply:
        """Reply to one request.

        Args:
            route: Method and path, with the query.
            headers: Names in small letters.
            payload: Parsed JSON; None without a body.
        """
        raise NotImplementedError

    @property
    def address(self) -> str:
        assert self._server is not None, "enter the server first"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self) -> Any:
        self._thread.start()
        self._server = self._run(self._listen())
        return self

    def __exit__(self, *_exception: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def die(self) -> None:
        """Refuse further connections and break off those that are open."""
        self._run(self._end())

    def die_soon(self) -> None:
        """The same, asked for from within an answer."""
        self._loop.create_task(self._end())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)

    async def _end(self) -> None:
        assert self._server is not None, "entered"
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; returns whether the connection stays."""
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            route = " ".join(head.split()[:2])
            reply = await self.answer(route, headers, json.loads(body) if body else None)
            await asyncio.sleep(reply.latency_s)
            if reply.hangs:
                await asyncio.Event().wait()
        finally:
            self.num_open -= 1
        return await _send(writer, reply)


async def _send(writer: asyncio.StreamWriter, reply: HttpReply) -> bool:
    headers = {"content-type": "application/json", "content-length": str(len(reply.body))}
    lines = [f"{name}: {value}" for name, value in (headers | reply.headers).items()]
    data = "\r\n".join([f"HTTP/1.1 {reply.status} Scripted", *lines, "", ""]).encode() + reply.body
    writer.write(data[: int(len(data) * reply.sent_share)])
    await writer.drain()
    return reply.sent_share == 1
