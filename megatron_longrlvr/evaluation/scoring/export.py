"""Scores as JSON and CSV; fractions, not percent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_longrlvr.evaluation.scoring.bootstrap import Estimate
from megatron_longrlvr.evaluation.scoring.comparison import PairedComparison
from megatron_longrlvr.evaluation.scoring.summary import FileSummary
from megatron_longrlvr.observability.files import write_atomically

CSV_COLUMNS = ("file", "format", "cell", "measure", "num_items", "mean", "low", "high")
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
        for cell, measure, one in _estimates(summary):
            writer.writerow([summary.path, summary.format_name, cell, measure, *_numbers(one)])
    write_atomically(path, text.getvalue())


def _estimates(summary: FileSummary) -> Iterator[tuple[str, str, Estimate]]:
    for cell, scores in summary.cell_scores.items():
        yield from ((cell, rule, one) for rule, one in scores.items())
    yield from ((ALL_CELLS, rule, one) for rule, one in summary.scores.items())
    yield from ((ALL_CELLS, f"evidence_{name}", one) for name, one in summary.evidence.items())


def _numbers(estimate: Estimate) -> list[float]:
    return [estimate.num_items, estimate.mean, estimate.low, estimate.high]
