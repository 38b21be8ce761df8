"""A data audit on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_longrlvr.data.audit.findings import CHECK_INFO, Finding, Severity
from megatron_longrlvr.data.audit.report import AuditReport

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow"}


def print_audit(report: AuditReport, console: Console) -> None:
    """Print counts by check with one example each, sizes, and the verdict."""
    measures = report.measures
    console.print(_checks_table(report))
    console.print(_sizes_table(report))
    deciles = " ".join(map(str, measures.decile_counts()))
    console.print(f"evidence by tenth of the document: {deciles}")
    console.print(
        f"answer word for word in the evidence: {measures.num_answers_in_evidence} of "
        f"{measures.num_telling_answers}; different documents: {measures.num_documents}"
    )
    console.print(verdict(report))


def verdict(report: AuditReport) -> str:
    """The outcome in a line."""
    errors, warnings = report.num_of(Severity.ERROR), report.num_of(Severity.WARNING)
    return f"{report.measures.num_rows} records, {errors} errors, {warnings} warnings"


def first_findings(report: AuditReport) -> Iterator[tuple[str, int, Finding]]:
    """Each check that found anything, errors first: title, how often, and the first finding."""
    counts = report.counts()
    for check, info in sorted(CHECK_INFO.items(), key=lambda item: item[1].severity.value):
        if counts[check]:
            first = next(finding for finding in report.findings if finding.check is check)
            yield info.title, counts[check], first


def _checks_table(report: AuditReport) -> Table:
    table = Table("", "found", "times", title="Findings")
    # Folded, for the line number stands at the end of a long path.
    table.add_column("first", overflow="fold")
    for title, count, first in first_findings(report):
        # Text, for what a file holds must not be read as rich's markup.
        table.add_row(
            Text(first.severity.value, style=_STYLES[first.severity]),
            title,
            str(count),
            Text(f"{first.place}: {first.message}"),
        )
    if not table.row_count:
        table.add_row("", "nothing", "0", "")
    return table


def _sizes_table(report: AuditReport) -> Table:
    table = Table(title="Sizes")
    table.add_column("")
    for title, distribution in report.measures.distributions().items():
        summary = distribution.summary()
        if not table.columns[1:]:
            for name in summary:
                table.add_column(name, justify="right")
        table.add_row(title, *(f"{value:g}" for value in summary.values()))
    return table
