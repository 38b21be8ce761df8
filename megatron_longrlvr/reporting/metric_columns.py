"""The metrics of a run as columns: small enough for a page, whatever the length of the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from megatron_longrlvr.observability.metric_log import MetricKind, MetricRecord
from megatron_longrlvr.reporting.run_record import RunRecord

MAX_RECORDS = 2000
"""Of one kind, on a page; of a longer run every second, third, ... record is shown."""

_DIGITS = 6


def metric_columns(run: RunRecord) -> dict[str, Any]:
    """Steps and values by kind and metric; None where a record has no value.

    Returns:
        ``{"train": {"step": [...], "every": 1, "values": {metric: [...]}}, "eval": {...}}``.
    """
    return {
        kind.value: _columns([record for record in run.records if record.kind is kind])
        for kind in MetricKind
    }


def _columns(records: Sequence[MetricRecord]) -> dict[str, Any]:
    every = max(1, math.ceil(len(records) / MAX_RECORDS))
    # Counted from the end: the newest record is always there.
    shown = records[::-1][::every][::-1]
    names = sorted({name for record in shown for name in record.metrics})
    return {
        "step": [record.step for record in shown],
        "every": every,
        "values": {name: [_short(record.metrics.get(name)) for record in shown] for name in names},
    }


def _short(value: float | None) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    return (
        int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.{_DIGITS}g}")
    )
