"""One judge server: its limits, circuit breaker, and what its replies mean."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from megatron_longrlvr.config.judge import JudgeBreakerConfig, JudgeEndpointConfig, JudgeRetryConfig
from megatron_longrlvr.http.connections import Connections, HttpFailure, HttpTimeouts, HttpTrouble
from megatron_longrlvr.rewards.judge.breaker import CircuitBreaker
from megatron_longrlvr.rewards.judge.clock import Clock
from megatron_longrlvr.rewards.judge.limits import RateLimit
from megatron_longrlvr.rewards.judge.query import NoVerdict

_PATH = "/chat/completions"
_REASONS = {
    HttpTrouble.TIMEOUT: NoVerdict.TIMEOUT,
    HttpTrouble.BROKEN_REPLY: NoVerdict.BROKEN_REPLY,
    HttpTrouble.CONNECTION: NoVerdict.CONNECTION,
}
# A server that asks for more is passed over until then; longer would outlast any run's patience.
_MAX_RETRY_AFTER_S = 3600.0
# Characters of English text per token, for the estimate that the token limit starts from.
_CHARS_PER_TOKEN = 4
# Rounds of all voters that find no free endpoint must not keep the event loop busy.
MIN_WAIT_S = 0.01


class RequestFailure(Exception):  # noqa: N818 - a value that travels as an exception, never shown
    """A request without a usable reply."""

    def __init__(self, reason: NoVerdict) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointSettings:
    """How an endpoint is treated; the same for all of them."""

    retry: JudgeRetryConfig
    breaker: JudgeBreakerConfig
    max_tokens: int


class Endpoint:
    """Sends requests to one server."""

    def __init__(
        self,
        config: JudgeEndpointConfig,
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

    async def post(self, body: bytes) -> str:
        """Send a request, when limits and places allow, and return the text of its reply.

        The caller has entered the circuit breaker.

        Raises:
            RequestFailure: There is none.
        """
        self.num_waiting += 1
        try:
            reply = await self._post(body)
        except RequestFailure as failure:
            if failure.reason is NoVerdict.RATE_LIMITED:
                self.breaker.succeed()  # a server that counts requests is up
            else:
                self.breaker.fail()
            raise
        except BaseException:
            self.breaker.abandon()
            raise
        finally:
            self.num_waiting -= 1
        self.breaker.succeed()
        return reply

    async def close(self) -> None:
        await self._connections.close()

    async def _post(self, body: bytes) -> str:
        estimate = len(body) / _CHARS_PER_TOKEN + self._max_tokens
        if self._requests is not None:
            await self._requests.take(1)
        if self._tokens is not None:
            await self._tokens.take(estimate)
        try:
            reply = await self._connections.request("POST", _PATH, body, self._timeouts)
        except HttpFailure as failure:
            raise RequestFailure(_REASONS[failure.trouble]) from None
        self._check_status(reply.status, reply.headers)
        text, num_tokens = _read_completion(reply.content)
        if self._tokens is not None and num_tokens is not None:
            self._tokens.correct(num_tokens - estimate)
        return text

    def _check_status(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return
        # 503 comes with the header too.
        asked = headers.get(b"retry-after", b"").decode("latin-1")
        wait_s = retry_after_s(asked or None, now=datetime.now(UTC))
        if wait_s is not None:
            self._asked_to_wait_until = self._clock.now() + wait_s
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RequestFailure(NoVerdict.RATE_LIMITED)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise RequestFailure(NoVerdict.SERVER_ERROR)
        raise RequestFailure(NoVerdict.REFUSED)


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


def _read_completion(content: bytes) -> tuple[str, int | None]:
    """Text of the first choice, and tokens used where the server says so."""
    try:
        completion: Any = json.loads(content)
        text = completion["choices"][0]["message"]["content"]
        num_tokens = (completion.get("usage") or {}).get("total_tokens")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise RequestFailure(NoVerdict.BROKEN_REPLY) from None
    if not isinstance(text, str):
        raise RequestFailure(NoVerdict.BROKEN_REPLY)
    return text, num_tokens if isinstance(num_tokens, int) else None
