"""Asks for one verdict: which endpoint, how often, how long, and how many votes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.rewards.judge.clock import Clock, SystemClock
from megatron_longrlvr.rewards.judge.endpoint import (
    MIN_WAIT_S,
    Endpoint,
    EndpointSettings,
    RequestFailure,
)
from megatron_longrlvr.rewards.judge.grammar import parse_verdict, structured_output
from megatron_longrlvr.rewards.judge.query import JudgeQuery, JudgeTraffic, NoVerdict
from megatron_longrlvr.rewards.judge.template import PromptTemplate
from megatron_longrlvr.rewards.judge.votes import Vote, majority
from megatron_longrlvr.stages import Verdict

# Upper end of a wait for a free endpoint: one may close its circuit before its time is up.
_MAX_WAIT_S = 0.25


class JudgeClient:
    """Turns queries into votes. Belongs to one event loop."""

    def __init__(
        self,
        config: JudgeConfig,
        template: PromptTemplate,
        api_keys: Mapping[str, str],
        *,
        clock: Clock | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            config: The recipe's judge.
            template: What is asked.
            api_keys: Keys by the names of the environment variables that held them.
            clock: Of limits, breakers and pauses; timeouts go by the machine's.
        """
        self._config = config
        self._template = template
        self._clock = clock or SystemClock()
        settings = EndpointSettings(
            retry=config.retry, breaker=config.breaker, max_tokens=config.max_tokens
        )
        self._endpoints = [
            Endpoint(
                endpoint,
                settings,
                api_key=api_keys[endpoint.api_key_env] if endpoint.api_key_env else None,
                clock=self._clock,
            )
            for endpoint in config.endpoints
        ]
        self._room = asyncio.Semaphore(sum(one.max_concurrent for one in config.endpoints))
        self._fields = {
            "model": config.model,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            **structured_output(config.structured_output),
        }
        # Spreads retries out in time; no result depends on it.
        self._random = random.Random()
        self._num_requests = 0
        self._num_retries = 0
        self._num_openings_taken = 0

    async def ask(self, query: JudgeQuery, *, max_attempts: int | None = None) -> Vote:
        """Judge one answer by the majority of the votes.

        Args:
            query: What to judge.
            max_attempts: Requests for one vote, where not as many as the recipe allows.
        """
        attempts = max_attempts or self._config.retry.max_attempts
        if self._config.votes == 1:
            return await self._vote(query, attempts)
        votes = [self._vote(query, attempts) for _ in range(self._config.votes)]
        return majority(await asyncio.gather(*votes))

    def take_traffic(self) -> JudgeTraffic:
        """Counts since the last call."""
        num_openings = sum(endpoint.breaker.num_openings for endpoint in self._endpoints)
        traffic = JudgeTraffic(
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

    async def _vote(self, query: JudgeQuery, max_attempts: int) -> Vote:
        progress = _Progress()
        # Waiting for room is no failure, so the time runs from here.
        async with self._room:
            try:
                async with asyncio.timeout(self._config.retry.total_timeout_s):
                    await self._try(progress, query, max_attempts)
            except TimeoutError:
                pass  # the reason is that of the last failure
        if progress.verdict is None:
            return Vote(verdict=Verdict.NONE, reason=progress.reason)
        return Vote(verdict=progress.verdict)

    async def _try(self, progress: _Progress, query: JudgeQuery, max_attempts: int) -> None:
        for attempt in range(max_attempts):
            if attempt > 0:
                self._num_retries += 1
                await self._clock.sleep(self._backoff_s(attempt))
            endpoint = await self._enter_endpoint()
            if endpoint is None:
                return
            progress.reason = NoVerdict.TIMEOUT  # what it is if time runs out in this request
            self._num_requests += 1
            try:
                reply = await endpoint.post(self._body(query))
            except RequestFailure as failure:
                progress.reason = failure.reason
                continue
            progress.verdict = parse_verdict(reply)
            if progress.verdict is not None:
                return
            progress.reason = NoVerdict.WRONG_GRAMMAR

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
            if is_down or wait_s > self._config.retry.total_timeout_s:
                return None
            await self._clock.sleep(min(max(wait_s, MIN_WAIT_S), _MAX_WAIT_S))

    def _body(self, query: JudgeQuery) -> bytes:
        content: dict[str, Any] = {**self._fields, "messages": self._template.messages(query)}
        # ASCII, because an answer may hold halves of surrogate pairs, which no encoding takes.
        return json.dumps(content).encode("ascii")

    def _backoff_s(self, attempt: int) -> float:
        retry = self._config.retry
        # The exponent is bounded first: 2.0**1024 is an error, not infinity.
        longest = min(retry.backoff_s * 2.0 ** min(attempt - 1, 60), retry.max_backoff_s)
        return self._random.uniform(0, longest)


@dataclass(kw_only=True)
class _Progress:
    """What one vote has come to so far."""

    verdict: Verdict | None = None
    reason: NoVerdict = NoVerdict.CIRCUIT_OPEN


def _load(endpoint: Endpoint) -> float:
    return endpoint.num_waiting / endpoint.max_concurrent


def required_keys(config: JudgeConfig) -> Sequence[str]:
    """Names of the environment variables that the endpoints' keys come from."""
    return sorted({one.api_key_env for one in config.endpoints if one.api_key_env is not None})
