"""The judge in its own thread: verdicts are on their way while the engine still samples.

Requests run in an event loop of a background thread. A query that was started is waited for later,
by ``collect``; equal queries share one judgement.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from megatron_longrlvr.chat.client import Traffic, read_keys
from megatron_longrlvr.config.judge import JudgeConfig
from megatron_longrlvr.http.background import BackgroundLoop
from megatron_longrlvr.rewards.judge.cache import VerdictCache
from megatron_longrlvr.rewards.judge.client import JudgeClient
from megatron_longrlvr.rewards.judge.query import JudgeQuery
from megatron_longrlvr.rewards.judge.template import load_template
from megatron_longrlvr.stages import Judgement, Verdict

# Nobody can get this wrong; what counts is that a verdict comes at all.
_PROBE = JudgeQuery(question="What is two plus two?", references=("four",), answer="four")


class JudgeService:
    """Satisfies ``AnswerJudge`` over HTTP. Made, used and closed by one thread."""

    def __init__(self, client: JudgeClient, cache: VerdictCache | None) -> None:
        self._client = client
        self._cache = cache
        self._pending: dict[JudgeQuery, Future[Judgement]] = {}
        self._background = BackgroundLoop("judge")

    def start(self, query: JudgeQuery) -> None:
        """Begin to judge, unless the same is under way."""
        if query not in self._pending:
            self._pending[query] = self._background.submit(self._judge(query))

    def collect(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Wait for verdicts; what was started and is not asked for here is forgotten."""
        for query in queries:
            self.start(query)
        judgements = []
        seen: set[JudgeQuery] = set()
        for query in queries:
            judgement = self._pending[query].result()
            is_repeated = query in seen and judgement.verdict is not Verdict.NONE
            judgements.append(replace(judgement, is_cached=True) if is_repeated else judgement)
            seen.add(query)
        self._pending.clear()
        return judgements

    def probe(self) -> bool:
        """Ask something easy, once, past the cache."""
        vote = self._background.submit(self._client.ask(_PROBE, max_attempts=1)).result()
        return vote.verdict is not Verdict.NONE

    def take_traffic(self) -> Traffic:
        return self._client.take_traffic()

    def close(self) -> None:
        """End the thread; what is under way is given up. Closing twice does nothing."""
        self._background.close(self._client.close)
        if self._cache is not None:
            self._cache.close()

    async def _judge(self, query: JudgeQuery) -> Judgement:
        started = time.monotonic()
        if self._cache is not None and (known := self._cache.find(query)) is not None:
            return Judgement(verdict=known, is_cached=True)
        vote = await self._client.ask(query)
        if self._cache is not None and vote.verdict is not Verdict.NONE:
            self._cache.store(query, vote.verdict)
        return Judgement(
            verdict=vote.verdict,
            reason=vote.reason.value if vote.reason is not None else "",
            latency_s=time.monotonic() - started,
        )


def open_judge(config: JudgeConfig, *, run_dir: Path | None) -> JudgeService:
    """Build the judge that a recipe describes; no request is sent yet.

    Args:
        config: The recipe's judge.
        run_dir: Where a relative ``cache`` lies; without one there is no such cache.

    Raises:
        ConfigError: A key's environment variable is not set, the template cannot be used, or the
            cache is something else.
    """
    template = load_template(config.template)
    client = JudgeClient(config, template, read_keys(config.endpoints, section="rewards.judge"))
    cache = None
    if config.cache is not None and (run_dir is not None or Path(config.cache).is_absolute()):
        path = (run_dir or Path()) / config.cache
        cache = VerdictCache(
            path, model=config.model, template=template.version, votes=config.votes
        )
    return JudgeService(client, cache)
