"""``longrlvr theory``: compute the study, show its heart, write record and figures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_longrlvr.files import write_atomically
from megatron_longrlvr.observability.provenance import record_header
from megatron_longrlvr.theory.experiment import CurveRow, Study, run_study, study_record
from megatron_longrlvr.theory.figures import write_figures

RECORD_NAME = "theory.json"


def study_theory(folder: Path, *, seed: int, num_samples: int, num_steps: int) -> list[Path]:
    """Write ``theory.json`` and the figures into a folder, and print tables."""
    start = time.monotonic()
    study = run_study(num_samples=num_samples, num_steps=num_steps, seed=seed)
    figures = write_figures(study, folder)
    record = {
        **record_header("gradient per evidence logit and GRPO on the independent-citation model"),
        "wall_s": round(time.monotonic() - start, 1),
        **study_record(study),
    }
    write_atomically(folder / RECORD_NAME, json.dumps(record, indent=1) + "\n")
    console = Console()
    console.print(_gradient_table(study))
    console.print(_learning_table(study.curves))
    return [folder / RECORD_NAME, *figures]


def _gradient_table(study: Study) -> Table:
    table = Table(
        *("case", "reward", "N", "g", "closed form", "sampled", "standard error"),
        title="Gradient per evidence logit",
    )
    for row in study.gradients:
        sizes = (str(row.num_chunks), str(row.num_evidence))
        numbers = (f"{value:.3e}" for value in (row.closed_form, row.sampled, row.stderr))
        table.add_row(row.case, row.payment, *sizes, *numbers)
    return table


def _learning_table(curves: Sequence[CurveRow]) -> Table:
    num_steps = len(curves[0].curve.recall)
    table = Table(
        *("reward", "g", "recall", "precision", "answer"), title=f"After {num_steps} steps of GRPO"
    )
    for row in curves:
        ends = (row.curve.recall[-1], row.curve.precision[-1], row.curve.answer[-1])
        table.add_row(row.name, str(row.num_evidence), *(f"{end:.2f}" for end in ends))
    return table
