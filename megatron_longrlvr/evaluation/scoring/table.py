"""Tables of scores for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from megatron_longrlvr.evaluation.scoring.bootstrap import Estimate
from megatron_longrlvr.evaluation.scoring.comparison import PairedComparison
from megatron_longrlvr.evaluation.scoring.summary import FileSummary


def print_summary(summary: FileSummary, console: Console) -> None:
    """Scores by cell and rule in percent, what nobody decided, and what the parsers found."""
    console.print(f"{summary.path} ({summary.format_name}, {summary.num_outputs} outputs)")
    console.print(_scores_table(summary))
    for rule, one in summary.undecided.items():
        console.print(
            f"undecided:       {one.num_outputs} outputs by {rule}: "
            f"{100 * one.score_if_wrong:.2f} if all of them are wrong, "
            f"{100 * one.score_if_right:.2f} if right"
        )
    console.print(f"strict parser:   {_counts(summary.strict_outcomes)}")
    console.print(f"tolerant parser: {_counts(summary.tolerant_outcomes)}")
    if summary.evidence:
        scores = ", ".join(f"{name} {_percent(one)}" for name, one in summary.evidence.items())
        console.print(f"evidence:        {scores}")
    if summary.defects:
        console.print(f"responses:       {_counts(summary.defects)}")
    if summary.is_last_line_cut:
        console.print("left out:        the last line, which is the beginning of a record")
    console.print()


def print_comparison(
    comparisons: Sequence[PairedComparison], *, first: str, second: str, console: Console
) -> None:
    """Differences in percentage points, with both tests."""
    console.print(f"{second} minus {first}")
    table = Table("rule", "questions", "difference", "better", "worse", "McNemar p", "bootstrap p")
    for one in comparisons:
        table.add_row(
            one.rule,
            str(one.difference.num_items),
            _percent(one.difference),
            str(one.num_second_only),
            str(one.num_first_only),
            "-" if one.mcnemar_p is None else f"{one.mcnemar_p:.2g}",
            f"{one.bootstrap_p:.2g}",
        )
    console.print(table)


def _scores_table(summary: FileSummary) -> Table:
    rules = list(summary.scores)
    table = Table("cell", "questions", *rules)
    has_cells = len(summary.cell_scores) > 1
    if has_cells:
        for cell, scores in summary.cell_scores.items():
            table.add_row(cell, *_row(scores, rules))
        table.add_section()
    table.add_row("mean of cells" if has_cells else "all", *_row(summary.scores, rules))
    return table


def _row(scores: Mapping[str, Estimate], rules: Sequence[str]) -> list[str]:
    num_items = max(one.num_items for one in scores.values())
    return [str(num_items), *(_percent(scores[r]) if r in scores else "-" for r in rules)]


def _percent(estimate: Estimate) -> str:
    low, high = (100 * bound for bound in (estimate.low, estimate.high))
    return f"{100 * estimate.mean:.2f} [{low:.1f}, {high:.1f}]"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())
