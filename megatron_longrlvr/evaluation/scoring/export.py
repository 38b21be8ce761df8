"""Scores as JSON and CSV; fractions, not percent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_longrlvr.evaluation.scoring.bootstrap import Estimate
from megatron_longrlvr.evaluation.scoring.comparison import PairedComparison
from megatron_longrlvr.evaluation.scoring.summary import FileSummary, Undecided
from megatron_longrlvr.files import write_atomically

CSV_COLUMNS = (
    *("file", "format", "cell", "measure", "num_items", "mean", "low", "high"),
    *("num_undecided", "mean_if_wrong", "mean_if_right"),
)
ALL_CELLS = "mean"
"""Name of the row that averages over the cells."""


def write_json(
    path: Path, summaries: Sequence[FileSummary], comparisons: Sequence[PairedComparison]
) -> None:
    """Write everything that was found out, as one object."""
    content = {
        "files": [asdict(summary) for summary in summaries],
        "comparisons": [asdict(one) for one in comparisons],
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def write_csv(path: Path, summaries: Sequence[FileSummary]) -> None:
    """Write one row for each file, cell and measure; see ``CSV_COLUMNS``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for summary in summaries:
        for row in _rows(summary):
            writer.writerow([summary.path, summary.format_name, *row])
    write_atomically(path, text.getvalue())


def _rows(summary: FileSummary) -> Iterator[tuple[str | float, ...]]:
    for cell, scores in summary.cell_scores.items():
        yield from _score_rows(cell, scores, summary.cell_undecided[cell])
    yield from _score_rows(ALL_CELLS, summary.scores, summary.undecided)
    evidence = {f"evidence_{name}": one for name, one in summary.evidence.items()}
    yield from _score_rows(ALL_CELLS, evidence, {})


def _score_rows(
    cell: str, estimates: Mapping[str, Estimate], undecided: Mapping[str, Undecided]
) -> Iterator[tuple[str | float, ...]]:
    for name, one in estimates.items():
        none = Undecided(num_outputs=0, score_if_wrong=one.mean, score_if_right=one.mean)
        doubt = undecided.get(name, none)
        numbers = (one.num_items, one.mean, one.low, one.high)
        bounds = (doubt.score_if_wrong, doubt.score_if_right)
        yield cell, name, *numbers, doubt.num_outputs, *bounds
