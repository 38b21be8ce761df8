"""Asks for one verdict: what is sent, how a reply is read, and how many votes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from megatron_longrlvr.chat.client import COMPLETIONS, ChatClient, Request, Traffic
from megatron_longrlvr.chat.clock import Clock
from megatron_longrlvr.chat.endpoint import EndpointSettings
from megatron_longrlvr.chat.grammar import structured_output
from megatron_longrlvr.chat.reply import Completion, read_completion
from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.rewards.judge.grammar import VERDICT_SCHEMA, parse_verdict
from megatron_longrlvr.rewards.judge.query import JudgeQuery, NoVerdict
from megatron_longrlvr.rewards.judge.template import PromptTemplate
from megatron_longrlvr.rewards.judge.votes import Vote, majority
from megatron_longrlvr.stages import Verdict


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
        settings = EndpointSettings(
            retry=config.retry, breaker=config.breaker, max_tokens=config.max_tokens
        )
        self._chat = ChatClient(config.endpoints, settings, api_keys, clock=clock)
        self._fields = {
            "model": config.model,
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            **structured_output(config.structured_output, name="verdict", schema=VERDICT_SCHEMA),
        }

    async def ask(self, query: JudgeQuery, *, max_attempts: int | None = None) -> Vote:
        """Judge one answer by the majority of the votes.

        Args:
            query: What to judge.
            max_attempts: Requests for one vote, where not as many as the recipe allows.
        """
        if self._config.votes == 1:
            return await self._vote(query, max_attempts)
        votes = [self._vote(query, max_attempts) for _ in range(self._config.votes)]
        return majority(await asyncio.gather(*votes))

    def take_traffic(self) -> Traffic:
        """Counts since the last call."""
        return self._chat.take_traffic()

    async def close(self) -> None:
        """Close all connections."""
        await self._chat.close()

    async def _vote(self, query: JudgeQuery, max_attempts: int | None) -> Vote:
        request = Request(
            path=COMPLETIONS,
            make_body=lambda: self._body(query),
            read=read_completion,
            accept=_verdict_of,
        )
        answer = await self._chat.ask(request, max_attempts=max_attempts)
        if answer.value is None:
            return Vote(verdict=Verdict.NONE, reason=NoVerdict(answer.failure.reason.value))
        return Vote(verdict=answer.value)

    def _body(self, query: JudgeQuery) -> bytes:
        content: dict[str, Any] = {**self._fields, "messages": self._template.messages(query)}
        # ASCII, because an answer may hold halves of surrogate pairs, which no encoding takes.
        return json.dumps(content).encode("ascii")


def _verdict_of(completion: Completion) -> Verdict | None:
    return parse_verdict(completion.text)
