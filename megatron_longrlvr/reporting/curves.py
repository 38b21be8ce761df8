"""Curves of a report as SVG, one figure per metric, all runs in each.

Text and lines take their colours from CSS variables of the page, so that one picture serves a
light and a dark page; a viewer without them sees the fallback colours. Runs differ in colour,
dash and marker, so that no pair depends on colour alone.

Palette: Okabe and Ito, jfly.uni-koeln.de/color.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.run_record import Point, RunRecord
from megatron_longrlvr.reporting.tables import f_beta_name, flatten

RUN_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Fallbacks of the page's ``--run-0`` and so on; more runs start over with another dash."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")

# matplotlib wants real colours; these are unlike any other and become CSS in the finished SVG.
_INK = "#010203"
_FAINT = "#010204"
_RUN_SENTINELS = tuple(f"#0a0b{index:02x}" for index in range(len(RUN_COLORS)))

_STYLE: dict[Any, Any] = {  # keys are a Literal of every setting that matplotlib has
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar sign in the name of a run is a dollar sign
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
}
_SIZE_INCHES = (5.2, 2.7)
_LEGEND_WIDTH_CHARS = 62  # of the figure's width at its font size
_LEGEND_HANDLE_CHARS = 8  # the line before a label and the gap after it
_MAX_MARKERS = 15  # with more they run together on a noisy curve


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveSpec:
    """A metric worth a figure."""

    metric: str
    title: str
    """``{f_beta}`` stands for the name of the F score."""

    is_share: bool = False
    """The axis runs from 0 to 1."""

    compares_within: str | None = None
    """Dotted key of the configuration; values compare only between runs that share it."""


CURVES = (
    CurveSpec(metric=names.EVAL_CONTEXT_F_BETA_MEAN, title="Held-out {f_beta}", is_share=True),
    CurveSpec(metric=names.EVAL_ANSWER_MEAN, title="Held-out answer accuracy", is_share=True),
    CurveSpec(
        metric=names.EVAL_CONTEXT_RECALL_MEAN, title="Held-out evidence recall", is_share=True
    ),
    CurveSpec(metric=names.REWARD_MEAN, title="Training reward", compares_within="rewards.variant"),
    CurveSpec(
        metric=names.REWARD_CONTEXT_RECALL_MEAN, title="Training evidence recall", is_share=True
    ),
    CurveSpec(
        metric=names.REWARD_GROUPS_INFORMATIVE_FRAC,
        title="Groups with spread in the reward",
        is_share=True,
    ),
    CurveSpec(metric=names.UPDATE_GRAD_NORM, title="Gradient norm before clipping"),
    CurveSpec(metric=names.ROLLOUT_RESPONSE_TOKENS_MEAN, title="Response length in tokens"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A figure with what a reader needs to trace it back."""

    metric: str
    title: str
    svg: str | None
    """None where no run measured the metric."""

    sources: Sequence[str]
    """Per run that measured it: file, number of records, step range."""

    missing: Sequence[str]
    """Labels of the runs that did not measure it."""

    caution: str | None
    """Why the runs do not compare; None where they do."""


def draw_curves(runs: Sequence[RunRecord]) -> list[Curve]:
    """Draw every curve of :data:`CURVES` over all runs."""
    return [draw_curve(spec, runs) for spec in CURVES]


def draw_curve(spec: CurveSpec, runs: Sequence[RunRecord]) -> Curve:
    """Draw one metric of all runs."""
    points = {index: run.points(spec.metric) for index, run in enumerate(runs)}
    measured = {
        index: listed
        for index, listed in points.items()
        if any(point.value is not None for point in listed)
    }
    title = spec.title.format(f_beta=f_beta_name(runs))
    return Curve(
        metric=spec.metric,
        title=title,
        svg=_draw(spec, runs, measured) if measured else None,
        sources=[_source(runs[index], points) for index, points in measured.items()],
        missing=[run.label for index, run in enumerate(runs) if index not in measured],
        caution=_caution(spec, runs),
    )


def run_color(index: int) -> str:
    """CSS colour of a run."""
    slot = index % len(RUN_COLORS)
    return f"var(--run-{slot}, {RUN_COLORS[slot]})"


def _caution(spec: CurveSpec, runs: Sequence[RunRecord]) -> str | None:
    if spec.compares_within is None:
        return None
    values = {str(dict(flatten(run.config)).get(spec.compares_within)) for run in runs}
    if len(values) == 1:
        return None
    return f"The runs differ in {spec.compares_within}, so heights do not compare between them."


def _source(run: RunRecord, points: Sequence[Point]) -> str:
    steps = [point.step for point in points]
    gaps = sum(point.value is None for point in points)
    unmeasured = f", {gaps} of them not measured" if gaps else ""
    records = "1 record" if len(points) == 1 else f"{len(points)} records"
    return f"{run.metrics_path}, steps {min(steps)} to {max(steps)}, {records}{unmeasured}"


def _draw(spec: CurveSpec, runs: Sequence[RunRecord], measured: dict[int, list[Point]]) -> str:
    # The salt keeps ids apart between figures that share a page, and equal between two reports.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": spec.metric}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for index, points in measured.items():
            _plot(axes, index, runs[index].label, points)
        _dress(axes, spec, num_columns=_legend_columns([runs[index].label for index in measured]))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _as_page_svg(buffer.getvalue())


def _plot(axes: Axes, index: int, label: str, points: Sequence[Point]) -> None:
    slot = index % len(RUN_COLORS)
    axes.plot(
        [point.step for point in points],
        [math.nan if point.value is None else point.value for point in points],
        label=label,
        color=_RUN_SENTINELS[slot],
        linestyle=_DASHES[(index + index // len(RUN_COLORS)) % len(_DASHES)],
        marker=_MARKERS[slot],
        markevery=math.ceil(len(points) / _MAX_MARKERS),
    )


def _dress(axes: Axes, spec: CurveSpec, *, num_columns: int) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if spec.is_share:
        axes.set_ylim(-0.03, 1.03)
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), high)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=num_columns, frameon=False, borderaxespad=0.2
    )


def _legend_columns(labels: Sequence[str]) -> int:
    """As many as fit side by side; a wider legend would squeeze the axes."""
    return max(1, _LEGEND_WIDTH_CHARS // (max(map(len, labels)) + _LEGEND_HANDLE_CHARS))


def _as_page_svg(svg: str) -> str:
    svg = svg[svg.index("<svg") :].strip()
    # Every figure has an axes_1; nothing refers to the ids of groups.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(_INK, "var(--ink, #333333)").replace(_FAINT, "var(--rule, #c8c8c8)")
    for index, sentinel in enumerate(_RUN_SENTINELS):
        svg = svg.replace(sentinel, run_color(index))
    return svg
