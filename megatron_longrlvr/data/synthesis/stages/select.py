"""select: best of each cluster, then best of the document, then the threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from megatron_longrlvr.config.synthesis import SelectConfig
from megatron_longrlvr.data.synthesis.kept import Part, hash_of
from megatron_longrlvr.data.synthesis.outcome import Dropped, Outcome, Reason
from megatron_longrlvr.data.synthesis.rows import ScoredCandidate
from megatron_longrlvr.data.synthesis.stage import Desk
from megatron_longrlvr.data.synthesis.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class SelectStage:
    """Leaves one question of a document, or none."""

    config: SelectConfig
    seed: int

    name = "select"
    record = ScoredCandidate
    inputs = ("score",)
    keeps_for_good = False

    def settings(self) -> Mapping[str, Part]:
        return {"min_score": self.config.min_score, "seed": self.seed}

    def count_items(self, workspace: Workspace) -> int:
        return len({row.document_index for row in workspace.rows("score", ScoredCandidate)})

    def run(self, desk: Desk) -> None:
        rows = desk.rows("score", ScoredCandidate)
        for _, group in groupby(rows, key=lambda row: row.document_index):
            desk.take(select(tuple(group), min_score=self.config.min_score, seed=self.seed))


def select(scored: Sequence[ScoredCandidate], *, min_score: float, seed: int) -> Outcome:
    """Choose among the candidates of one document.

    Equal scores are decided by a draw that depends on the seed and the candidates alone, so no
    place among them is favoured.

    Args:
        scored: At least one, those of a cluster together.
        min_score: What the chosen one must have.
        seed: Of the run.
    """
    winners, dropped = [], []
    for _, group in groupby(scored, key=lambda one: one.candidate.cluster_id):
        cluster = tuple(group)
        winner = _best(cluster, seed)
        winners.append(winner)
        dropped += _others(cluster, winner, Reason.NOT_BEST_OF_CLUSTER)
    best = _best(winners, seed)
    dropped += _others(winners, best, Reason.NOT_BEST_OF_DOCUMENT)
    if best.score < min_score:
        detail = f"score {best.score:.2f} below {min_score:g}"
        dropped.append(
            Dropped(item=best.candidate.name, reason=Reason.BELOW_THRESHOLD, detail=detail)
        )
        return Outcome(dropped=tuple(dropped))
    return Outcome(rows=(best,), dropped=tuple(dropped))


def _best(scored: Iterable[ScoredCandidate], seed: int) -> ScoredCandidate:
    return max(scored, key=lambda one: (one.score, hash_of("select", seed, one.candidate.name)))


def _others(
    scored: Iterable[ScoredCandidate], winner: ScoredCandidate, reason: Reason
) -> list[Dropped]:
    return [
        Dropped(
            item=one.candidate.name,
            reason=reason,
            detail=f"score {one.score:.2f} against {winner.score:.2f}",
        )
        for one in scored
        if one is not winner
    ]
