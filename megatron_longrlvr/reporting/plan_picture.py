"""A plan as a picture: memory bars of each pipeline stage's ranks, and the timeline of a step.

Palette: Okabe and Ito, jfly.uni-koeln.de/color, in shades where there are more terms than colours.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megatron_longrlvr.planner.plan import Plan

_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#5f6770")
_LIGHT_COLORS = frozenset({"#e69f00", "#56b4e9", "#f0e442", "#cc79a7"})
_HATCHES = ("", "//", "..")
_DPI = 130
_MAX_STAGES = 16
_LABEL_FRAC = 0.05  # of a step: a shorter phase has no room for its name


def plan_png(plan: Plan) -> bytes:
    """Draw it; the same plan gives the same bytes."""
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    memory, time = figure.subplots(2, 1, height_ratios=(3, 1.2))
    _draw_memory(memory, plan)
    _draw_timeline(time, plan)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()


def _draw_memory(axes: Axes, plan: Plan) -> None:
    stages = plan.stages[:_MAX_STAGES]
    styles: dict[str, tuple[str, str]] = {}
    for place, stage in enumerate(stages):
        critic = [stage.critic] if stage.critic else []
        phases = [stage.training, *critic, stage.sampling]
        width = 0.8 / len(phases)
        for number, terms in enumerate(phases):
            bottom = 0.0
            for term in (*stage.resident, *terms):
                is_new = term.name not in styles
                index = len(styles)
                color, hatch = styles.setdefault(
                    term.name, (_COLORS[index % len(_COLORS)], _HATCHES[index // len(_COLORS)])
                )
                axes.bar(
                    place + (number - (len(phases) - 1) / 2) * width,
                    term.gib,
                    width=0.9 * width,
                    bottom=bottom,
                    color=color,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0.6,
                    label=term.name if is_new else None,
                )
                bottom += term.gib
    device = plan.cluster.accelerator
    middle = "" if plan.workload.critic is None else ", with the critic (middle)"
    axes.axhline(device.memory_gib, color="black", linewidth=1.2)
    axes.axhline(plan.limit_gib, color="black", linewidth=1.0, linestyle=(0, (5, 2)))
    axes.set_xticks(range(len(stages)), [f"stage {stage.stage}" for stage in stages])
    axes.set_ylabel("GiB of a rank")
    axes.set_title(
        f"{plan.workload.layout} on {plan.cluster}\nmemory while training (left){middle} and "
        f"sampling (right); {device.memory_gib:g} GiB a GPU, dashed: to plan with",
        fontsize=10,
        loc="left",
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    _open(axes, ["top", "right"])


def _draw_timeline(axes: Axes, plan: Plan) -> None:
    start = 0.0
    for index, phase in enumerate(plan.phases):
        axes.barh(0, phase.seconds, left=start, color=_COLORS[index], edgecolor="white", height=0.6)
        if phase.seconds > _LABEL_FRAC * plan.step_s:
            axes.text(
                start + phase.seconds / 2,
                0,
                f"{phase.name}\n{phase.seconds:,.0f} s",
                ha="center",
                va="center",
                fontsize=8.5,
                color="black" if _COLORS[index] in _LIGHT_COLORS else "white",
            )
        start += phase.seconds
    axes.set_yticks([])
    axes.set_xlim(0, start)
    axes.set_xlabel("seconds, computed from shapes and rates, not measured")
    axes.set_title(f"one step: {plan.step_s:,.0f} s, MFU {plan.mfu:.1%}", fontsize=10, loc="left")
    _open(axes, ["top", "right", "left"])


def _open(axes: Axes, sides: Sequence[str]) -> None:
    for side in sides:
        axes.spines[side].set_visible(False)
