"""What comes back from a server, and why nothing may."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any


class NoReply(StrEnum):
    """Why a request has no reply of use."""

    CONNECTION = "connection"
    """No connection, or one that broke."""

    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    """Status 5xx."""

    REFUSED = "refused"
    """Status 4xx other than 429: a wrong key, model name or option."""

    RATE_LIMITED = "rate_limited"
    """Status 429."""

    BROKEN_REPLY = "broken_reply"
    """Half a reply, or one of another kind."""

    WRONG_GRAMMAR = "wrong_grammar"
    """A reply that is not of the form that was asked for."""

    CIRCUIT_OPEN = "circuit_open"
    """No endpoint took requests."""


_REQUEST_FAULTS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)


class RequestFailure(Exception):  # noqa: N818 - a value that travels as an exception, never shown
    """A request without a usable reply."""

    def __init__(self, reason: NoReply, *, status: int | None = None, detail: str = "") -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.status = status
        """Of a reply that was refused."""

        self.detail = detail
        """The beginning of what a refusing server wrote; untrusted."""

    @property
    def is_of_request(self) -> bool:
        """Whether the request itself was at fault: too long, for one. The server is well then."""
        return self.reason is NoReply.REFUSED and self.status in _REQUEST_FAULTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a language model wrote, and what that cost."""

    text: str
    is_cut: bool
    """Whether the limit of tokens ended it."""

    prompt_tokens: int | None
    completion_tokens: int | None
    """None where the server does not say."""


def read_completion(content: Any) -> Completion:  # noqa: ANN401 - JSON that a server sent
    """The first choice of a chat completion.

    Raises:
        LookupError, TypeError, ValueError: It is none.
    """
    choice = content["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("the message holds no text")
    usage = content.get("usage") or {}
    return Completion(
        text=text,
        is_cut=choice.get("finish_reason") == "length",
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
