"""One server: its limits, circuit breaker, and what its replies mean."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

from megatron_longrlvr.chat.breaker import CircuitBreaker
from megatron_longrlvr.chat.clock import Clock
from megatron_longrlvr.chat.limits import RateLimit
from megatron_longrlvr.chat.reply import NoReply, RequestFailure
from megatron_longrlvr.config.chat import ChatBreakerConfig, ChatEndpointConfig, ChatRetryConfig
from megatron_longrlvr.http.connections import (
    Connections,
    HttpFailure,
    HttpTimeouts,
    HttpTrouble,
    Reply,
)

_Value = TypeVar("_Value")

_REASONS = {
    HttpTrouble.TIMEOUT: NoReply.TIMEOUT,
    HttpTrouble.BROKEN_REPLY: NoReply.BROKEN_REPLY,
    HttpTrouble.CONNECTION: NoReply.CONNECTION,
}
# A server that asks for more is passed over until then; longer would outlast any run's patience.
_MAX_RETRY_AFTER_S = 3600.0
# Characters of English text per token, for the estimate that the token limit starts from.
_CHARS_PER_TOKEN = 4
# Of what a refusing server says.
_DETAIL_CHARS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSettings:
    """How an endpoint is treated; the same for all of them."""

    retry: ChatRetryConfig
    breaker: ChatBreakerConfig
    max_tokens: int
    """Of a reply, for the estimate that the token limit starts from; 0 where replies hold none."""


class Endpoint:
    """Sends requests to one server."""

    def __init__(
        self,
        config: ChatEndpointConfig,
        settings: EndpointSettings,
        *,
        api_key: str | None,
        clock: Clock,
    ) -> None:
        key = [] if api_key is None else [(b"authorization", f"Bearer {api_key}".encode())]
        self._connections = Connections(config.url, count=config.max_concurrent, headers=key)
        self._timeouts = HttpTimeouts(
            connect_s=settings.retry.connect_timeout_s, read_s=settings.retry.read_timeout_s
        )
        self._max_tokens = settings.max_tokens
        self._clock = clock
        self._asked_to_wait_until = -math.inf
        self._requests = _limit(config.requests_per_minute, clock)
        self._tokens = _limit(config.tokens_per_minute, clock)
        self.breaker = CircuitBreaker(settings.breaker, clock)
        self.max_concurrent = config.max_concurrent
        self.num_waiting = 0
        """Requests sent or about to be."""

    def wait_s(self) -> float:
        """Seconds until this endpoint may take a request; 0 where it may now."""
        asked = self._asked_to_wait_until - self._clock.now()
        return max(0.0, asked, self.breaker.wait_s())

    async def post(self, path: str, body: bytes, read: Callable[[Any], _Value]) -> _Value:
        """Send a request, when limits and places allow, and return what its reply says.

        The caller has entered the circuit breaker.

        Args:
            path: Behind the endpoint's address, e.g. ``/chat/completions``.
            body: JSON.
            read: Takes the parsed reply apart; may raise LookupError, TypeError, ValueError or
                AttributeError where it is not of the kind expected.

        Raises:
            RequestFailure: There is none.
        """
        self.num_waiting += 1
        try:
            value = await self._post(path, body, read)
        except RequestFailure as failure:
            if failure.reason is NoReply.RATE_LIMITED or failure.is_of_request:
                self.breaker.succeed()  # a server that counts or reads requests is up
            else:
                self.breaker.fail()
            raise
        except BaseException:
            self.breaker.abandon()
            raise
        finally:
            self.num_waiting -= 1
        self.breaker.succeed()
        return value

    async def close(self) -> None:
        await self._connections.close()

    async def _post(self, path: str, body: bytes, read: Callable[[Any], _Value]) -> _Value:
        estimate = len(body) / _CHARS_PER_TOKEN + self._max_tokens
        if self._requests is not None:
            await self._requests.take(1)
        if self._tokens is not None:
            await self._tokens.take(estimate)
        try:
            reply = await self._connections.request("POST", path, body, self._timeouts)
        except HttpFailure as failure:
            raise RequestFailure(_REASONS[failure.trouble]) from None
        self._check_status(reply)
        value, num_tokens = _read_content(reply.content, read)
        if self._tokens is not None and num_tokens is not None:
            self._tokens.correct(num_tokens - estimate)
        return value

    def _check_status(self, reply: Reply) -> None:
        status = reply.status
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return
        # 503 comes with the header too.
        asked = reply.headers.get(b"retry-after", b"").decode("latin-1")
        wait_s = retry_after_s(asked or None, now=datetime.now(UTC))
        if wait_s is not None:
            self._asked_to_wait_until = self._clock.now() + wait_s
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RequestFailure(NoReply.RATE_LIMITED)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RequestFailure(NoReply.SERVER_ERROR)
        detail = reply.content.decode("utf-8", errors="replace")[:_DETAIL_CHARS]
        raise RequestFailure(NoReply.REFUSED, status=status, detail=detail)


def retry_after_s(value: str | None, *, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as a number or as a date.

    Args:
        value: The header; None where there is none.
        now: With a time zone.

    Returns:
        At least 0 and at most an hour; None without a header that can be read.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError):  # no date, or one without a time zone
            return None
    return min(max(0.0, seconds), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _limit(per_minute: float | None, clock: Clock) -> RateLimit | None:
    return None if per_minute is None else RateLimit(per_minute, clock)


def _read_content(content: bytes, read: Callable[[Any], _Value]) -> tuple[_Value, int | None]:
    """What a reply says, and tokens used where the server says so."""
    try:
        parsed: Any = json.loads(content)
        value = read(parsed)
        num_tokens = (parsed.get("usage") or {}).get("total_tokens")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RequestFailure(NoReply.BROKEN_REPLY) from None
    return value, num_tokens if isinstance(num_tokens, int) else None
