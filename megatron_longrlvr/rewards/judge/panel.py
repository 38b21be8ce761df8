"""Verdicts for all ranks alike, and the rule about too many missing ones.

One rank of each data-parallel replica asks; the others get its verdicts, for ranks that hold the
same samples must give them the same rewards. How many verdicts are missing is counted over all
replicas, so all of them pause, go on or stop together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from megatron_longrlvr.chat.client import Traffic
from megatron_longrlvr.config.judge import JudgeOutageConfig
from megatron_longrlvr.errors import JudgeUnavailable
from megatron_longrlvr.rewards.judge.query import AnswerJudge, JudgeQuery
from megatron_longrlvr.stages import Judgement, Verdict


@dataclass(frozen=True, kw_only=True)
class Peers:
    """The other ranks, seen from this one. The defaults are those of a run on one rank."""

    share: Callable[[object], object] = lambda value: value
    """Hands the value of the rank that asks to all ranks of its replica, which all call it."""

    sum_over_replicas: Callable[[Sequence[float]], tuple[float, ...]] = tuple
    """Sums over the data-parallel ranks, which all call it."""

    say: Callable[[str], None] = lambda text: None  # noqa: ARG005
    """Tells the person who watches; silent on all ranks but one."""

    is_stop_asked: Callable[[], bool] = lambda: False
    """Whether this rank was told to end the run."""

    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, kw_only=True)
class PanelTraffic:
    """What judging cost since it was last asked for."""

    traffic: Traffic
    paused_s: float


@dataclass(kw_only=True)
class JudgePanel:
    """The judge as the ranks of a run see it."""

    judge: AnswerJudge | None
    """None on ranks that get their verdicts from another one."""

    outage: JudgeOutageConfig
    peers: Peers = field(default_factory=Peers)
    paused_s: float = 0.0

    def start(self, query: JudgeQuery) -> None:
        """Begin to judge, on the rank that asks."""
        if self.judge is not None:
            self.judge.start(query)

    def collect(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Verdicts in the order of the queries; every rank calls this, without queries too.

        Raises:
            JudgeUnavailable: More verdicts are missing than the recipe allows, and waiting did
                not help or was not wanted. Raised on every rank.
        """
        judgements = self._ask(queries)
        waited_s = 0.0
        while (missing := self._missing(judgements)).is_too_many(self.outage.max_failure_rate):
            waited_s = self._pause(missing, waited_s)
            again = [index for index, one in enumerate(judgements) if _is_missing(one)]
            for index, one in zip(again, self._ask([queries[i] for i in again]), strict=True):
                judgements[index] = one
        return judgements

    def take_traffic(self) -> PanelTraffic:
        """Counts of this rank since the last call."""
        paused_s, self.paused_s = self.paused_s, 0.0
        traffic = self.judge.take_traffic() if self.judge is not None else Traffic()
        return PanelTraffic(traffic=traffic, paused_s=paused_s)

    def close(self) -> None:
        if self.judge is not None:
            self.judge.close()

    def _ask(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        judgements = self.judge.collect(queries) if self.judge is not None else None
        shared = self.peers.share(judgements)
        assert isinstance(shared, list), "the rank that asks hands on a list"
        assert len(shared) == len(queries), "ranks of a replica hold the same samples"
        return list(shared)

    def _missing(self, judgements: Sequence[Judgement]) -> _Missing:
        num_missing = sum(_is_missing(one) for one in judgements)
        totals = self.peers.sum_over_replicas([float(num_missing), float(len(judgements))])
        reasons = Counter(one.reason for one in judgements if _is_missing(one))
        return _Missing(count=int(totals[0]), of=int(totals[1]), reasons=reasons)

    def _pause(self, missing: _Missing, waited_s: float) -> float:
        """Wait until a probe gets through on every replica; returns the waiting so far.

        Waiting is counted, not measured, so that all ranks give up at the same moment.
        """
        outage = self.outage
        if outage.action == "stop":
            raise JudgeUnavailable(f"{missing}; rewards.judge.outage.action=stop")
        self.peers.say(
            f"{missing}: pausing, with a probe every {outage.probe_every_s:g} s for at most "
            f"{outage.max_pause_s - waited_s:g} s"
        )
        is_up = False
        while not is_up:
            if waited_s + outage.probe_every_s > outage.max_pause_s:
                raise JudgeUnavailable(f"{missing}; waited {waited_s:g} s")
            self.peers.sleep(outage.probe_every_s)
            waited_s += outage.probe_every_s
            self.paused_s += outage.probe_every_s
            is_up = self._probe(missing)
        self.peers.say(f"the judge answers again after {waited_s:g} s; asking for what is missing")
        return waited_s

    def _probe(self, missing: _Missing) -> bool:
        probed = self.judge is not None and self.judge.probe()
        shared = self.peers.share((probed, self.peers.is_stop_asked()))
        assert isinstance(shared, tuple), "the rank that asks hands on a pair"
        is_up, is_asked = shared
        down, asked = self.peers.sum_over_replicas([float(not is_up), float(is_asked)])
        if asked:
            raise JudgeUnavailable(f"{missing}; told to stop while waiting")
        return down == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Missing:
    count: int
    of: int
    reasons: Counter[str]
    """Of this rank."""

    def is_too_many(self, max_rate: float) -> bool:
        return self.of > 0 and self.count / self.of > max_rate

    def __str__(self) -> str:
        shown = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common())
        text = f"the judge gave no verdict on {self.count} of {self.of} answers"
        return f"{text} ({shown})" if shown else text


def _is_missing(judgement: Judgement) -> bool:
    return judgement.verdict is Verdict.NONE
