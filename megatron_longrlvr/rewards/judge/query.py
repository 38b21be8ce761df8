"""What a judge is asked, and who can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from megatron_longrlvr.chat.client import Traffic
from megatron_longrlvr.chat.reply import NoReply
from megatron_longrlvr.stages import Judgement


class NoVerdict(StrEnum):
    """Why a judge gave no verdict: the reasons of ``NoReply``, and two of its own."""

    CONNECTION = NoReply.CONNECTION
    TIMEOUT = NoReply.TIMEOUT
    SERVER_ERROR = NoReply.SERVER_ERROR
    REFUSED = NoReply.REFUSED
    RATE_LIMITED = NoReply.RATE_LIMITED
    BROKEN_REPLY = NoReply.BROKEN_REPLY
    WRONG_GRAMMAR = NoReply.WRONG_GRAMMAR
    CIRCUIT_OPEN = NoReply.CIRCUIT_OPEN
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

    def take_traffic(self) -> Traffic:
        """Counts since the last call."""
        ...

    def close(self) -> None:
        """Give up what is under way and release connections and files."""
        ...
