"""What a judge is asked, and who can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from megatron_longrlvr.stages import Judgement


class NoVerdict(StrEnum):
    """Why a judge gave no verdict."""

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
    """Half a reply, or one that is no chat completion."""

    WRONG_GRAMMAR = "wrong_grammar"
    """A reply that is no verdict."""

    CIRCUIT_OPEN = "circuit_open"
    """No endpoint took requests."""

    SPLIT_VOTE = "split_vote"
    """No side has more than half of the votes asked for."""

    NOT_RECORDED = "not_recorded"
    """A recorded judge has never seen the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeQuery:
    """An answer to compare with its references."""

    question: str
    references: tuple[str, ...]
    """Any one of them counts as right."""

    answer: str
    """Untrusted: written by the policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeTraffic:
    """What went over the wire since it was last asked for."""

    requests: int = 0
    retries: int = 0
    circuit_openings: int = 0


class AnswerJudge(Protocol):
    """Judges answers, several at a time."""

    def start(self, query: JudgeQuery) -> None:
        """Begin to judge and return at once."""
        ...

    def collect(self, queries: Sequence[JudgeQuery]) -> list[Judgement]:
        """Wait for the verdicts of these queries, started or not; in the order given."""
        ...

    def probe(self) -> bool:
        """Whether a verdict can be had at this moment."""
        ...

    def take_traffic(self) -> JudgeTraffic:
        """Counts since the last call."""
        ...

    def close(self) -> None:
        """Give up what is under way and release connections and files."""
        ...
