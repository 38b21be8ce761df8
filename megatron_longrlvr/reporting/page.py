"""The report: one HTML file that shows what some runs logged.

It needs no network and no script, and it computes nothing new. What a policy wrote is untrusted,
so the template escapes every value; the figures are the only markup that is let through.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from megatron_longrlvr.observability.files import write_atomically
from megatron_longrlvr.observability.step_metrics import RIGHT_ANSWER
from megatron_longrlvr.reporting.curves import RUN_COLORS, draw_curves, run_color
from megatron_longrlvr.reporting.rollouts import ChunkMark, Rollout, select_rollouts
from megatron_longrlvr.reporting.run_record import RunRecord, load_runs
from megatron_longrlvr.reporting.tables import (
    describe_run,
    differing_settings,
    f_beta_name,
    provenance_rows,
    score_blocks,
)

TEMPLATE = "template.html"

_MAX_NAMED_RUNS = 2  # a title with more names is no title

_MARK_CLASSES = {
    ChunkMark.FOUND: "found",
    ChunkMark.MISSED: "missed",
    ChunkMark.WRONG: "wrong",
    ChunkMark.NONE: "none",
}


def build_report(run_dirs: Sequence[Path], output: Path, *, title: str | None = None) -> Path:
    """Build a report over one or several runs.

    Args:
        run_dirs: Each with ``config.json``; ``provenance.json``, ``metrics.jsonl`` and ``samples``
            are said to be missing where they are.
        output: The HTML file; written whole or not at all.
        title: Defaults to the names of the runs.

    Returns:
        ``output``.

    Raises:
        ValueError: A file cannot be read; the message names it.
    """
    runs = load_runs(run_dirs)
    page = render_page(runs, title=title or _default_title(runs))
    # Halves of surrogate pairs, which a tokenizer can decode to, become question marks.
    write_atomically(output, page.encode("utf-8", errors="replace").decode("utf-8"))
    return output


def render_page(runs: Sequence[RunRecord], *, title: str) -> str:
    """Fill the template."""
    rollouts = select_rollouts(runs)
    environment = Environment(
        loader=PackageLoader("megatron_longrlvr.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        runs=runs,
        f_beta=f_beta_name(runs),
        score_blocks=score_blocks(runs),
        settings=differing_settings(runs),
        provenance=provenance_rows(runs),
        configs=[json.dumps(run.config, indent=2) for run in runs],
        curves=[
            (curve, None if curve.svg is None else Markup(curve.svg)) for curve in draw_curves(runs)
        ],
        rollouts=rollouts,
        open_rollout=_open_rollout(rollouts),
        descriptions=[describe_run(run) for run in runs],
        right_answer=RIGHT_ANSWER,
        mark_classes=_MARK_CLASSES,
        run_color=run_color,
        run_colors=list(enumerate(RUN_COLORS)),
    )


def _default_title(runs: Sequence[RunRecord]) -> str:
    if len(runs) > _MAX_NAMED_RUNS:
        return f"{len(runs)} runs"
    return " and ".join(run.label for run in runs)


def _open_rollout(rollouts: Sequence[Rollout]) -> int | None:
    """Index of the one shown unfolded: the best of the last file."""
    best = [index for index, rollout in enumerate(rollouts) if rollout.rank == 0]
    return best[-1] if best else None
