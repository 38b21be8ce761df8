"""Several votes on one answer, and what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_longrlvr.rewards.judge.query import NoVerdict
from megatron_longrlvr.stages import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """One vote, or the reason why there is none."""

    verdict: Verdict
    reason: NoVerdict | None = None
    """Of a vote without verdict."""


def majority(votes: Sequence[Vote]) -> Vote:
    """The side with more than half of the votes asked for.

    A failed vote counts for neither side, so failures can leave no majority but cannot make one:
    the outcome then bears the reason of most of them.

    Args:
        votes: At least one.
    """
    counts = Counter(vote.verdict for vote in votes)
    for verdict in (Verdict.YES, Verdict.NO):
        if 2 * counts[verdict] > len(votes):
            return Vote(verdict=verdict)
    reasons = Counter(vote.reason for vote in votes if vote.reason is not None)
    reason = reasons.most_common(1)[0][0] if reasons else NoVerdict.SPLIT_VOTE
    return Vote(verdict=Verdict.NONE, reason=reason)
