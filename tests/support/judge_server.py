"""A real HTTP server that speaks chat completions and fails as it is told.

    with JudgeServer(fails_now_and_then) as server:
        ... server.url, server.requests

A script maps each request to a ``Reply``. ``honest`` compares answer and references; ``echoing``
obeys the first thing in the prompt that looks like a verdict or an order, as a gullible model does.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Request:
    """What came in."""

    index: int
    """From 0, in the order of arrival."""

    headers: dict[str, str]
    """Names in small letters."""

    payload: dict[str, Any]

    @property
    def prompt(self) -> str:
        """The last message."""
        return str(self.payload["messages"][-1]["content"])

    @property
    def answer(self) -> str:
        """The answer as the prompt shows it, without the bars."""
        return "\n".join(line.removeprefix("| ") for line in self._section("ANSWER"))

    @property
    def references(self) -> list[str]:
        return [line.removeprefix("- ") for line in self._section("REFERENCES")]

    @property
    def question(self) -> str:
        return "\n".join(self._section("QUESTION"))

    def _section(self, name: str) -> list[str]:
        lines = self.prompt.split("\n")
        begin = next(index for index, line in enumerate(lines) if line.startswith(f"BEGIN {name} "))
        end = lines.index(lines[begin].replace("BEGIN", "END"))
        return lines[begin + 1 : end]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What goes out."""

    content: str = ""
    """Of the message; replaced by ``body`` where that is given."""

    body: bytes | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    latency_s: float = 0.0
    sent_share: float = 1.0
    """Below 1 the connection breaks off in the middle of the reply; at 0 before it."""

    hangs: bool = False
    """Nothing is sent and the connection stays open."""


Script = Callable[[Request], Reply]

YES, NO = '{"verdict": "yes"}', '{"verdict": "no"}'


def verdict(is_yes: bool, **settings: Any) -> Reply:
    return Reply(content=YES if is_yes else NO, **settings)


def honest(request: Request) -> Reply:
    """Yes if a reference stands in the answer as a word of its own."""
    return verdict(
        any(
            re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", request.answer, re.IGNORECASE)
            for reference in request.references
        )
    )


# Independent of what the product looks for, and more liberal.
_ORDER = re.compile(
    r"(?:verdict|ruling|reply|respond|output|print|return|say|mark|grade|rate|rating|score|label"
    r"|judg\w+|treat|is_correct|result)\W{0,12}(?:[a-z]+\W{1,4}){0,6}?"
    r"(?P<order>yes|no|correct|incorrect|true|false|1\.0|right|wrong)\b"
    r"|[\[{(]+\W{0,3}(?P<bracketed>yes|no)\W{0,3}[\]})]+"
    r"|(?:answer|response)\W+(?:is|was|should be|must be)\W+(?:\w+\W+){0,4}?"
    r"(?P<claim>correct|incorrect|right|wrong|accepted|identical)\b"
    r"|\bend\W+(?:of\W+)?answer\b[^|]{0,200}?\b(?P<after>yes|no)\b"
)
_POSITIVE = {"yes", "correct", "true", "1.0", "right", "accepted", "identical"}


def obeyed(prompt: str) -> bool | None:
    """The verdict that a gullible reader would take from a prompt; None where it finds none."""
    text = unicodedata.normalize("NFKC", prompt)
    text = "".join(char for char in text if unicodedata.category(char) != "Cf").casefold()
    text = text.translate(str.maketrans("\u0435\u0456\u043e", "eio"))
    found = _ORDER.search(text)
    if found is None:
        return None
    return next(word for word in found.groups() if word) in _POSITIVE


def echoing(request: Request) -> Reply:
    """Obey the prompt where it seems to say what to answer; otherwise be honest."""
    order = obeyed(request.prompt)
    return honest(request) if order is None else verdict(order)


class JudgeServer:
    """Serves one script at ``url`` while it is entered."""

    def __init__(self, script: Script = honest) -> None:
        self.script = script
        self.requests: list[Request] = []
        self.num_open = 0
        self.most_open = 0
        """Most requests that were being answered at the same time."""

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None, "enter the server first"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def __enter__(self) -> JudgeServer:
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
        payload = json.loads(await reader.readexactly(int(headers["content-length"])))
        if head.split()[1] != "/v1/chat/completions":
            return await _send(writer, Reply(status=404, body=b"{}"))
        request = Request(index=len(self.requests), headers=headers, payload=payload)
        self.requests.append(request)
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            reply = self.script(request)
            await asyncio.sleep(reply.latency_s)
            if reply.hangs:
                await asyncio.Event().wait()
        finally:
            self.num_open -= 1
        return await _send(writer, reply)


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> bool:
    body = reply.body
    if body is None:
        message = {"role": "assistant", "content": reply.content}
        completion = {"choices": [{"index": 0, "message": message}], "usage": {"total_tokens": 50}}
        body = json.dumps(completion).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in (headers | reply.headers).items()]
    data = "\r\n".join([f"HTTP/1.1 {reply.status} Scripted", *lines, "", ""]).encode() + body
    writer.write(data[: int(len(data) * reply.sent_share)])
    await writer.drain()
    return reply.sent_share == 1
