"""A data audit as one HTML page that needs no network and no script.

What the files hold is untrusted, so the template escapes every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from megatron_longrlvr.data.audit.distribution import Distribution
from megatron_longrlvr.data.audit.findings import CHECK_INFO, CheckInfo, Finding
from megatron_longrlvr.data.audit.report import AuditReport
from megatron_longrlvr.reporting.audit_table import verdict

TEMPLATE = "audit.html"
MAX_SHOWN_FINDINGS = 200
"""Findings of one check that the page lists; the JSON has all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckBlock:
    """One check on the page."""

    info: CheckInfo
    count: int
    shown: Sequence[Finding]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of a histogram."""

    label: str
    count: int
    height_percent: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """One distribution on the page."""

    title: str
    bars: Sequence[Bar]
    summary: dict[str, float]


def render_audit(report: AuditReport) -> str:
    """Fill the template."""
    environment = Environment(
        loader=PackageLoader("megatron_longrlvr.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        request=report.request,
        measures=report.measures,
        verdict=verdict(report),
        blocks=check_blocks(report),
        histograms=[
            _histogram(title, distribution)
            for title, distribution in report.measures.distributions().items()
        ],
        deciles=_bars(
            [(f"tenth {place}", n) for place, n in enumerate(report.measures.decile_counts(), 1)]
        ),
    )
    # File names may hold what no encoding can write.
    return page.encode("utf-8", errors="replace").decode("utf-8")


def check_blocks(report: AuditReport) -> list[CheckBlock]:
    """All checks, those without findings included, errors before warnings."""
    counts = report.counts()
    blocks = [
        CheckBlock(
            info=info,
            count=counts[check],
            shown=[f for f in report.findings if f.check is check][:MAX_SHOWN_FINDINGS],
        )
        for check, info in CHECK_INFO.items()
    ]
    return sorted(blocks, key=lambda block: block.info.severity.value)


def _histogram(title: str, distribution: Distribution) -> Histogram:
    bars = [
        (f"{bar.low}" if bar.low == bar.high else f"{bar.low}-{bar.high}", bar.count)
        for bar in distribution.bins()
    ]
    return Histogram(title=title, bars=_bars(bars), summary=distribution.summary())


def _bars(counts: Sequence[tuple[str, int]]) -> list[Bar]:
    highest = max((count for _, count in counts), default=0) or 1
    return [
        Bar(label=label, count=count, height_percent=round(100 * count / highest, 2))
        for label, count in counts
    ]
