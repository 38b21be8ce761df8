"""Asks for one reply: which endpoint, how often, and how long."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from megatron_longrlvr.chat.clock import Clock, SystemClock
from megatron_longrlvr.chat.endpoint import Endpoint, EndpointSettings
from megatron_longrlvr.chat.reply import NoReply, RequestFailure
from megatron_longrlvr.config.chat import ChatEndpointConfig
from megatron_longrlvr.errors import ConfigError

COMPLETIONS = "/chat/completions"
EMBEDDINGS = "/embeddings"

# Upper end of a wait for a free endpoint: one may close its circuit before its time is up.
_MAX_WAIT_S = 0.25
# Rounds of all that find no free endpoint must not keep the event loop busy.
_MIN_WAIT_S = 0.01

_Value = TypeVar("_Value")
_Read = TypeVar("_Read")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request(Generic[_Read, _Value]):
    """What to send, and what to make of the reply."""

    path: str
    """Behind the endpoints' addresses, e.g. ``COMPLETIONS``."""

    make_body: Callable[[], bytes]
    """Called for each attempt."""

    read: Callable[[Any], _Read]
    """Takes a reply apart, see ``Endpoint.post``."""

    accept: Callable[[_Read], _Value | None]
    """What a reply says; None for one of the wrong form, which is asked for again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer(Generic[_Value]):
    """What a request came to: a value, or the last failure."""

    value: _Value | None
    failure: RequestFailure
    """Of a request without a value; meaningless with one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What went over the wire since it was last asked for."""

    requests: int = 0
    retries: int = 0
    circuit_openings: int = 0


class ChatClient:
    """Sends requests to the endpoints of one model. Belongs to one event loop."""

    def __init__(
        self,
        endpoints: Sequence[ChatEndpointConfig],
        settings: EndpointSettings,
        api_keys: Mapping[str, str],
        *,
        clock: Clock | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            endpoints: Servers of the same model.
            settings: The same for all of them.
            api_keys: Keys by the names of the environment variables that held them.
            clock: Of limits, breakers and pauses; timeouts go by the machine's.
        """
        self._retry = settings.retry
        self._clock = clock or SystemClock()
        self._endpoints = [
            Endpoint(
                endpoint,
                settings,
                api_key=api_keys[endpoint.api_key_env] if endpoint.api_key_env else None,
                clock=self._clock,
            )
            for endpoint in endpoints
        ]
        self.max_concurrent = sum(one.max_concurrent for one in endpoints)
        self._room = asyncio.Semaphore(self.max_concurrent)
        # Spreads retries out in time; no result depends on it.
        self._random = random.Random()
        self._num_requests = 0
        self._num_retries = 0
        self._num_openings_taken = 0

    async def ask(
        self, request: Request[_Read, _Value], *, max_attempts: int | None = None
    ) -> Answer[_Value]:
        """Send a request until a reply is accepted, or attempts or time run out.

        Args:
            request: What to send and what to make of the reply.
            max_attempts: Where not as many as the recipe allows.
        """
        progress = _Progress[_Value]()
        # Waiting for room is no failure, so the time runs from here.
        async with self._room:
            try:
                async with asyncio.timeout(self._retry.total_timeout_s):
                    await self._try(progress, request, max_attempts or self._retry.max_attempts)
            except TimeoutError:
                pass  # the reason is that of the last failure
        return Answer(value=progress.value, failure=progress.failure)

    def take_traffic(self) -> Traffic:
        """Counts since the last call."""
        num_openings = sum(endpoint.breaker.num_openings for endpoint in self._endpoints)
        traffic = Traffic(
            requests=self._num_requests,
            retries=self._num_retries,
            circuit_openings=num_openings - self._num_openings_taken,
        )
        self._num_requests = self._num_retries = 0
        self._num_openings_taken = num_openings
        return traffic

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            await endpoint.close()

    async def _try(
        self, progress: _Progress[_Value], request: Request[_Read, _Value], max_attempts: int
    ) -> None:
        for attempt in range(max_attempts):
            if attempt > 0:
                self._num_retries += 1
                await self._clock.sleep(self._backoff_s(attempt))
            endpoint = await self._enter_endpoint()
            if endpoint is None:
                return
            # What it is if time runs out in this request.
            progress.failure = RequestFailure(NoReply.TIMEOUT)
            self._num_requests += 1
            try:
                reply = await endpoint.post(request.path, request.make_body(), request.read)
            except RequestFailure as failure:
                progress.failure = failure
                if failure.is_of_request:  # and would be again
                    return
                continue
            progress.value = request.accept(reply)
            if progress.value is not None:
                return
            progress.failure = RequestFailure(NoReply.WRONG_GRAMMAR)

    async def _enter_endpoint(self) -> Endpoint | None:
        """Wait for an endpoint that takes requests; of several, the one with most room.

        Returns:
            None where there is no use in waiting: all are down, or ask for more time than there is.
        """
        while True:
            for endpoint in sorted(self._endpoints, key=_load):
                if endpoint.wait_s() == 0 and endpoint.breaker.enter():
                    return endpoint
            wait_s = min(endpoint.wait_s() for endpoint in self._endpoints)
            is_down = all(endpoint.breaker.is_down for endpoint in self._endpoints)
            if is_down or wait_s > self._retry.total_timeout_s:
                return None
            await self._clock.sleep(min(max(wait_s, _MIN_WAIT_S), _MAX_WAIT_S))

    def _backoff_s(self, attempt: int) -> float:
        # The exponent is bounded first: 2.0**1024 is an error, not infinity.
        longest = min(
            self._retry.backoff_s * 2.0 ** min(attempt - 1, 60), self._retry.max_backoff_s
        )
        return self._random.uniform(0, longest)


@dataclass(kw_only=True)
class _Progress(Generic[_Value]):
    """What one request has come to so far."""

    value: _Value | None = None
    failure: RequestFailure = field(default_factory=lambda: RequestFailure(NoReply.CIRCUIT_OPEN))


def _load(endpoint: Endpoint) -> float:
    return endpoint.num_waiting / endpoint.max_concurrent


def read_keys(endpoints: Iterable[ChatEndpointConfig], *, section: str) -> dict[str, str]:
    """The endpoints' keys by the names of their environment variables.

    Args:
        endpoints: Those of a section.
        section: Its name, for messages.

    Raises:
        ConfigError: A variable is not set, or empty; names it.
    """
    keys: dict[str, str] = {}
    for name in sorted({one.api_key_env for one in endpoints if one.api_key_env is not None}):
        value = os.environ.get(name, "").strip()
        if not value:
            raise ConfigError(f"{section}: the environment variable {name} holds no key")
        keys[name] = value
    return keys
