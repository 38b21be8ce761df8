"""Figures of the study as PNG: gradients, groups with signal, learning, controls.

Palette: Okabe and Ito, jfly.uni-koeln.de/color. Lines differ in dash as well as in colour.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megatron_longrlvr.theory.experiment import CurveRow, ScalingRow, Study
from megatron_longrlvr.theory.model import PAYMENTS

_COLORS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#5f6770")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_CASES = ("all or nothing", "partial credit", "coupled citing")
_DPI = 150


def write_figures(study: Study, folder: Path) -> list[Path]:
    """Draw all figures into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, Callable[[Figure, Study], None]] = {
        "gradients": _draw_gradients,
        "signal": _draw_signal,
        "learning": _draw_learning,
        "controls": _draw_controls,
    }
    paths = []
    for name, draw in drawings.items():
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, study)
        content = io.BytesIO()
        # No version of the library in the file: the same study gives the same bytes.
        figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
        paths.append(folder / f"{name}.png")
        _write(paths[-1], content.getvalue())
    return paths


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _draw_gradients(figure: Figure, study: Study) -> None:
    left, right = figure.subplots(1, 2)
    for index, payment in enumerate(PAYMENTS):
        rows = _rows(study, payment.name)
        _plot_rows(left, rows, index, label=payment.name, value="gradient", by_evidence=True)
        _plot_rows(right, rows, index, label=payment.name, value="gradient", by_evidence=False)
    for axes, label in ((left, "evidence chunks, of 64"), (right, "chunks, 4 of them evidence")):
        axes.set(xlabel=label, ylabel="gradient per evidence logit", yscale="log")
    right.set_xscale("log", base=2)
    left.legend(frameon=False)


def _draw_signal(figure: Figure, study: Study) -> None:
    left, right = figure.subplots(1, 2)
    for index, payment in enumerate(PAYMENTS):
        rows = _rows(study, payment.name)
        _plot_rows(left, rows, index, label=payment.name, value="signal_share", by_evidence=True)
        _plot_rows(right, rows, index, label=payment.name, value="signal_share", by_evidence=False)
    left.set(xlabel="evidence chunks, of 64", yscale="log")
    right.set(xlabel="chunks, 4 of them evidence", yscale="log")
    right.set_xscale("log", base=2)
    left.set_ylabel("share of groups with spread in the reward")
    left.legend(frameon=False)


def _draw_learning(figure: Figure, study: Study) -> None:
    recall, answer = figure.subplots(1, 2, sharey=True)
    for index, row in enumerate(study.curves[: len(PAYMENTS)]):
        _plot_curve(recall, row, index, "recall")
        _plot_curve(answer, row, index, "answer")
    recall.set(xlabel="step", ylabel="evidence recall")
    answer.set(xlabel="step", ylabel="right answers")
    recall.legend(frameon=False)


def _draw_controls(figure: Figure, study: Study) -> None:
    gradients, answers = figure.subplots(1, 2)
    for index, case in enumerate(_CASES):
        rows = _rows(study, PAYMENTS[0].name, case=case)
        _plot_rows(gradients, rows, index, label=case, value="gradient", by_evidence=True)
    gradients.set(xlabel="evidence chunks, of 64", ylabel="outcome-only gradient", yscale="log")
    gradients.legend(frameon=False)
    for index, row in enumerate([study.curves[0], *study.curves[len(PAYMENTS) :]]):
        _plot_curve(answers, row, index, "answer")
    answers.set(xlabel="step", ylabel="answer reward")
    answers.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _rows(study: Study, payment: str, *, case: str = _CASES[0]) -> list[ScalingRow]:
    return [row for row in study.scaling if (row.payment, row.case) == (payment, case)]


def _plot_rows(
    axes: Axes,
    rows: list[ScalingRow],
    index: int,
    *,
    label: str,
    value: str,
    by_evidence: bool,
) -> None:
    chosen = [
        row for row in rows if (row.num_chunks == 64 if by_evidence else row.num_evidence == 4)
    ]
    points = sorted(
        (row.num_evidence if by_evidence else row.num_chunks, getattr(row, value)) for row in chosen
    )
    places, heights = zip(*points, strict=True)
    axes.plot(places, heights, marker="o", label=label, color=_COLORS[index], ls=_dash(index))


def _plot_curve(axes: Axes, row: CurveRow, index: int, value: str) -> None:
    heights = getattr(row.curve, value)
    steps = range(1, len(heights) + 1)
    axes.plot(steps, heights, label=row.name, color=_COLORS[index], ls=_dash(index))


def _dash(index: int) -> str | tuple[int, tuple[float, ...]]:
    return _DASHES[index % len(_DASHES)]
