"""Everything that a report shows, as one JSON object; see ``assets/js`` for who reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_longrlvr.observability.samples import read_samples
from megatron_longrlvr.observability.step_metrics import GROUNDED_F_BETA, RIGHT_ANSWER
from megatron_longrlvr.reporting.charts import CHARTS, Chart
from megatron_longrlvr.reporting.metric_columns import metric_columns
from megatron_longrlvr.reporting.redaction import hide_variables, redact
from megatron_longrlvr.reporting.rollouts import (
    MAX_READ_BYTES,
    MAX_ROLLOUTS,
    Read,
    rollout_table,
)
from megatron_longrlvr.reporting.run_record import RunRecord
from megatron_longrlvr.reporting.tables import (
    comparison_rows,
    describe_run,
    differing_settings,
    f_beta_name,
    flatten,
    provenance_rows,
    score_blocks,
)


def build_payload(
    runs: Sequence[RunRecord],
    *,
    title: str,
    audit: Mapping[str, Any] | None = None,
    max_rollouts: int = MAX_ROLLOUTS,
    max_read_bytes: int = MAX_READ_BYTES,
    read: Read = read_samples,
) -> dict[str, Any]:
    """Collect what runs logged, without secrets.

    Args:
        runs: At least one.
        title: Heading of the page.
        audit: Of the training data, as ``longrlvr audit --json`` writes it.
        max_rollouts: Over all runs.
        max_read_bytes: Of sample files, over all runs.
        read: Reads a sample file.

    Raises:
        ValueError: A sample file cannot be read; the message names it.
    """
    return {
        "title": title,
        "f_beta": f_beta_name(runs),
        "right_answer": RIGHT_ANSWER,
        "grounded_f_beta": GROUNDED_F_BETA,
        "runs": [_run(run) for run in runs],
        "charts": [_chart(chart, runs) for chart in CHARTS],
        "scores": [asdict(block) for block in score_blocks(runs)],
        "comparison": [asdict(row) for row in comparison_rows(runs)],
        "settings": redact([asdict(row) for row in differing_settings(runs)]),
        "provenance": redact([asdict(row) for row in provenance_rows(runs)]),
        "table": rollout_table(
            runs, max_rollouts=max_rollouts, max_read_bytes=max_read_bytes, read=read
        ).to_json(),
        "audit": None if audit is None else redact(audit),
    }


def to_script_json(payload: Mapping[str, Any]) -> str:
    """JSON that can stand inside an HTML script element, whatever it holds.

    Pure ASCII without ``<``, ``>`` and ``&``: no tag begins or ends in it, no comment opens, and
    halves of surrogate pairs stay escapes.
    """
    text = hide_variables(json.dumps(payload, allow_nan=False, separators=(",", ":")))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def read_audit(path: Path) -> Mapping[str, Any]:
    """Read what ``longrlvr audit --json`` wrote.

    Raises:
        ValueError: The file is not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an audit: {error}") from error
    if not isinstance(content, dict) or not {"counts", "findings", "num_rows"} <= content.keys():
        raise ValueError(f"{path} is not what `longrlvr audit --json` writes")
    return content


def _run(run: RunRecord) -> dict[str, Any]:
    return {
        "label": run.label,
        "description": describe_run(run),
        "dir": str(run.run_dir),
        "has_provenance": run.provenance is not None,
        "num_sample_files": len(run.sample_files),
        "metrics": metric_columns(run),
        "config": redact(run.config),
    }


def _chart(chart: Chart, runs: Sequence[RunRecord]) -> dict[str, Any]:
    return {
        **asdict(chart),
        "title": chart.title.format(f_beta=f_beta_name(runs)),
        "metrics": [
            [metric, label.format(f_beta=f_beta_name(runs))] for metric, label in chart.metrics
        ],
        "caution": caution(chart, runs),
    }


def caution(chart: Chart, runs: Sequence[RunRecord]) -> str:
    """Why the runs do not compare in a chart; empty where they do."""
    if chart.compares_within is None:
        return ""
    values = {str(dict(flatten(run.config)).get(chart.compares_within)) for run in runs}
    if len(values) == 1:
        return ""
    return f"The runs differ in {chart.compares_within}, so heights do not compare between them."
