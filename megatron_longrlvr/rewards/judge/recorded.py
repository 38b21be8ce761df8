"""A judge that knows its verdicts beforehand: for tests and for replaying a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megatron_longrlvr.chat.client import Traffic
from megatron_longrlvr.rewards.judge.query import JudgeQuery, NoVerdict
from megatron_longrlvr.stages import Judgement, Verdict


class RecordedJudge:
    """Satisfies ``AnswerJudge`` from a table; what is not in it has no verdict."""

    def __init__(self, verdicts: Mapping[JudgeQuery, Verdict]) -> None:
        self._verdicts = verdicts
        self.started: list[JudgeQuery] = []
        """In the order of ``start``."""

    def start(self, query: JudgeQuery) -> None:
        self.started.append(query)

    def collect(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        return [self._judgement(query) for query in queries]

    def probe(self) -> bool:
        return True

    def take_traffic(self) -> Traffic:
        return Traffic()

    def close(self) -> None:
        """Nothing is held."""

    def _judgement(self, query: JudgeQuery) -> Judgement:
        verdict = self._verdicts.get(query, Verdict.NONE)
        reason = NoVerdict.NOT_RECORDED.value if verdict is Verdict.NONE else ""
        return Judgement(verdict=verdict, reason=reason, is_cached=True)
