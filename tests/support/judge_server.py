"""A real HTTP server that speaks chat completions and fails as it is told.

    with JudgeServer(fails_now_and_then) as server:
        ... server.url, server.requests

A script maps each request to a ``Reply``. ``honest`` compares answer and references; ``echoing``
obeys the first thing in the prompt that looks like a verdict or an order, as a gullible model does.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.support.http_server import HttpReply, HttpServer


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
class Reply(HttpReply):
    """What goes out."""

    content: str = ""
    """Of the message; replaced by ``body`` where that is given."""

    body: bytes | None = None

    def as_http(self) -> HttpReply:
        if self.body is not None:
            return self
        message = {"role": "assistant", "content": self.content}
        completion = {"choices": [{"index": 0, "message": message}], "usage": {"total_tokens": 50}}
        return replace(self, body=json.dumps(completion).encode())


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


class JudgeServer(HttpServer):
    """Serves one script at ``url`` while it is entered."""

    def __init__(self, script: Script = honest) -> None:
        super().__init__()
        self.script = script
        self.requests: list[Request] = []

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    async def answer(self, route: str, headers: dict[str, str], payload: Any) -> HttpReply:
        if route != "POST /v1/chat/completions":
            return HttpReply(status=404)
        request = Request(index=len(self.requests), headers=headers, payload=payload)
        self.requests.append(request)
        return self.script(request).as_http()
