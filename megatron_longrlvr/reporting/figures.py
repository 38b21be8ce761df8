"""The charts of a report as PNG files, for papers.

Runs differ in colour, dash and marker, so that no pair depends on colour alone. Palette: Okabe and
Ito, jfly.uni-koeln.de/color.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.observability import names
from megatron_longrlvr.reporting.charts import CHARTS, Chart
from megatron_longrlvr.reporting.run_record import Point, RunRecord
from megatron_longrlvr.reporting.tables import f_beta_name

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: dict[Any, Any] = {  # keys are a Literal of every setting that matplotlib has
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in the name of a run is a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d8dbde",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
_SIZE_INCHES = (4.8, 3.2)
_DPI = 200
_MAX_MARKERS = 12  # with more they run together on a noisy curve
_LEGEND_WIDTH_CHARS = 60  # of the figure's width at its font size
_LEGEND_HANDLE_CHARS = 8  # the line before a label and the gap after it


def write_figures(runs: Sequence[RunRecord], folder: Path) -> list[Path]:
    """Draw what was measured, a file for each chart and for each run's map of positions.

    Returns:
        The files; charts that no run measured have none.
    """
    paths = []
    with mpl.rc_context(_STYLE):
        for chart in CHARTS:
            figure = draw_chart(chart, runs)
            if figure is not None:
                paths.append(_save(figure, folder / f"{chart.section}_{chart.slug}.png"))
        for index, run in enumerate(runs):
            figure = draw_positions(run)
            if figure is not None:
                paths.append(_save(figure, folder / f"grounding_position_by_step_{index}.png"))
    return paths


def draw_chart(chart: Chart, runs: Sequence[RunRecord]) -> Figure | None:
    """One chart over all runs; None where no run measured anything of it."""
    lines = [
        (run_index, metric_index, label, run.points(metric))
        for run_index, run in enumerate(runs)
        for metric_index, (metric, label) in enumerate(chart.metrics)
    ]
    lines = [line for line in lines if any(point.value is not None for point in line[-1])]
    if not lines:
        return None
    figure, axes = _new_figure()
    for run_index, metric_index, label, points in lines:
        # Colour tells runs apart; of a single run, its metrics.
        color, dash = (run_index, metric_index) if len(runs) > 1 else (metric_index, 0)
        name = runs[run_index].label if len(runs) > 1 or not label else ""
        said = ", ".join(part for part in (name, label.format(f_beta=f_beta_name(runs))) if part)
        _plot(axes, points, label=said, color=color, dash=dash)
    axes.set_title(chart.title.format(f_beta=f_beta_name(runs)), loc="left", fontsize=10)
    _dress(axes, is_share=chart.is_share)
    widest = max(len(str(line.get_label())) for line in axes.lines)
    columns = max(1, _LEGEND_WIDTH_CHARS // (widest + _LEGEND_HANDLE_CHARS))
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=8)
    return figure


def draw_positions(run: RunRecord) -> Figure | None:
    """Share of the evidence that is cited, by tenth of the document and step."""
    rows = [
        run.points(names.grounding_by_decile(tenth, "recall")) for tenth in range(names.NUM_DECILES)
    ]
    steps = sorted({point.step for row in rows for point in row})
    if not steps:
        return None
    by_step = [{point.step: point.value for point in row} for row in rows]
    grid = [[_or_nan(row.get(step)) for step in steps] for row in by_step]
    figure, axes = _new_figure()
    axes.grid(visible=False)
    image = axes.imshow(
        grid,
        aspect="auto",
        cmap="cividis",
        vmin=0,
        vmax=1,
        extent=(steps[0] - 0.5, steps[-1] + 0.5, names.NUM_DECILES - 0.5, -0.5),
        interpolation="nearest",
    )
    axes.set(xlabel="step", ylabel="tenth of the document")
    axes.set_title(f"Evidence recall, {run.label}", loc="left", fontsize=10)
    figure.colorbar(image, ax=axes)
    return figure


def _new_figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _plot(axes: Axes, points: Sequence[Point], *, label: str, color: int, dash: int) -> None:
    axes.plot(
        [point.step for point in points],
        [_or_nan(point.value) for point in points],
        label=label,
        color=_COLORS[color % len(_COLORS)],
        linestyle=_DASHES[dash % len(_DASHES)],
        marker=_MARKERS[color % len(_MARKERS)],
        markevery=math.ceil(len(points) / _MAX_MARKERS),
    )


def _dress(axes: Axes, *, is_share: bool) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if is_share:
        axes.set_ylim(-0.03, 1.03)
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, low), high)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    # No version of the library in the file: the same runs give the same bytes.
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    write_atomically(path, content.getvalue())
    return path
