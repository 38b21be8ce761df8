"""Summary of a measured file: scores with intervals, parser outcomes, evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from megatron_longrlvr.evaluation.scoring.bootstrap import (
    Estimate,
    estimate_mean,
    mean_over_cells,
)
from megatron_longrlvr.evaluation.scoring.collect import MeasuredFile
from megatron_longrlvr.evaluation.scoring.measure import Measurement

ItemScores = Mapping[str, Mapping[str, float]]
"""Mean score of a question over its samples, by cell and question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Undecided:
    """Outputs that a rule's verifier could not decide, and what hangs on them.

    The rule's score counts them with what the verifier pays; it lies between the two bounds, which
    are averaged alike.
    """

    num_outputs: int
    score_if_wrong: float
    """The rule's score in [0, 1] if all of them were wrong."""

    score_if_right: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSummary:
    """What a report says about one file."""

    path: str
    format_name: str
    num_outputs: int
    is_last_line_cut: bool
    scores: Mapping[str, Estimate]
    """By rule, over all cells."""

    cell_scores: Mapping[str, Mapping[str, Estimate]]
    """By cell, then rule."""

    undecided: Mapping[str, Undecided]
    """By rule, over all cells; rules that decided every output are not there."""

    cell_undecided: Mapping[str, Mapping[str, Undecided]]
    """By cell, then rule."""

    strict_outcomes: Mapping[str, int]
    tolerant_outcomes: Mapping[str, int]
    defects: Mapping[str, int]
    evidence: Mapping[str, Estimate]
    """``precision``, ``recall`` and ``f2``; empty where evidence is unknown."""

    mean_response_chars: float


def summarize(measured: MeasuredFile, *, seed: int) -> FileSummary:
    """Aggregate the measurements of a file."""
    measurements = measured.measurements
    items = item_scores(measurements)
    by_cell: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        by_cell.setdefault(measurement.cell, []).append(measurement)
    cells = sorted(by_cell)
    return FileSummary(
        path=measured.path,
        format_name=measured.format_name,
        num_outputs=len(measurements),
        is_last_line_cut=measured.is_last_line_cut,
        scores={rule: _estimate(scores, seed=seed) for rule, scores in items.items()},
        cell_scores={
            cell: {
                rule: _estimate({cell: scores[cell]}, seed=seed)
                for rule, scores in items.items()
                if cell in scores
            }
            for cell in cells
        },
        undecided=_undecided(measurements),
        cell_undecided={cell: _undecided(by_cell[cell]) for cell in cells},
        strict_outcomes=_count(measurement.strict_outcome for measurement in measurements),
        tolerant_outcomes=_count(measurement.tolerant_outcome for measurement in measurements),
        defects=_count(defect for measurement in measurements for defect in measurement.defects),
        evidence=_evidence(measurements, seed=seed),
        mean_response_chars=sum(one.num_chars for one in measurements) / len(measurements),
    )


def item_scores(measurements: Sequence[Measurement]) -> dict[str, ItemScores]:
    """Mean scores of the questions, by rule; the rules in the order of the report."""
    rules = list(dict.fromkeys(rule for one in measurements for rule in one.scores))
    return {
        rule: _item_means(
            (one.cell, one.item_id, one.scores[rule]) for one in measurements if rule in one.scores
        )
        for rule in rules
    }


def _undecided(measurements: Sequence[Measurement]) -> dict[str, Undecided]:
    counts = Counter(rule for one in measurements for rule in one.undecided)
    rules = [rule for rule in measurements[0].scores if rule in counts]
    return {
        rule: Undecided(
            num_outputs=counts[rule],
            score_if_wrong=_bound(measurements, rule, undecided_score=0.0),
            score_if_right=_bound(measurements, rule, undecided_score=1.0),
        )
        for rule in rules
    }


def _bound(measurements: Sequence[Measurement], rule: str, *, undecided_score: float) -> float:
    scores = _item_means(
        (one.cell, one.item_id, undecided_score if rule in one.undecided else one.scores[rule])
        for one in measurements
    )
    return mean_over_cells({cell: list(by_item.values()) for cell, by_item in scores.items()})


def _item_means(triples: Iterable[tuple[str, str, float]]) -> ItemScores:
    collected: dict[str, dict[str, list[float]]] = {}
    for cell, item_id, score in triples:
        collected.setdefault(cell, {}).setdefault(item_id, []).append(score)
    return {
        cell: {item_id: sum(scores) / len(scores) for item_id, scores in by_item.items()}
        for cell, by_item in collected.items()
    }


def _estimate(scores: ItemScores, *, seed: int) -> Estimate:
    return estimate_mean(
        {cell: list(by_item.values()) for cell, by_item in scores.items()}, seed=seed
    )


def _evidence(measurements: Sequence[Measurement], *, seed: int) -> dict[str, Estimate]:
    matches = [(one.cell, one.item_id, one.evidence) for one in measurements if one.evidence]
    if not matches:
        return {}
    triples = {
        "precision": [(cell, item_id, match.precision) for cell, item_id, match in matches],
        "recall": [(cell, item_id, match.recall) for cell, item_id, match in matches],
        "f2": [(cell, item_id, match.f2) for cell, item_id, match in matches],
    }
    return {name: _estimate(_item_means(rows), seed=seed) for name, rows in triples.items()}


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
