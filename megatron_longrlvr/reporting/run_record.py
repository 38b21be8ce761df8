"""A finished or running run as its directory tells it; nothing is computed anew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.observability.metric_log import (
    METRICS_FILE,
    MetricKind,
    MetricRecord,
    read_metric_log,
)
from megatron_longrlvr.observability.provenance import PROVENANCE_FILE
from megatron_longrlvr.observability.samples import list_alarms, list_heldout, list_samples

CONFIG_FILE = "config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One measurement of one metric."""

    step: int
    value: float | None
    """None where the run logged that it could not measure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """What a run directory holds."""

    label: str
    """Distinct among the runs of a report."""

    run_dir: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any] | None
    """None where the run wrote none."""

    records: Sequence[MetricRecord]
    """One per step and kind, in the order of steps; empty where the run wrote none."""

    sample_files: Sequence[Path]
    """In the order of steps, like those that follow."""

    heldout_files: Sequence[Path] = ()
    alarm_files: Sequence[Path] = ()

    @property
    def metrics_path(self) -> Path:
        """The log that the records come from."""
        return self.run_dir / METRICS_FILE

    def points(self, metric: str) -> list[Point]:
        """Measurements of a metric in the order of steps."""
        return [
            Point(step=record.step, value=record.metrics[metric])
            for record in self.records
            if metric in record.metrics
        ]

    @property
    def last_step(self) -> int | None:
        """Last step that was logged; None where nothing was."""
        return self.records[-1].step if self.records else None


def load_runs(run_dirs: Sequence[Path]) -> list[RunRecord]:
    """Read run directories and give each a distinct label.

    Raises:
        ValueError: No directory, one without ``config.json``, or a file that cannot be read; the
            message names it.
    """
    if not run_dirs:
        raise ValueError("a report needs at least one run directory")
    configs = [_read_config(run_dir) for run_dir in run_dirs]
    return [
        RunRecord(
            label=label,
            run_dir=run_dir,
            config=config,
            provenance=_read_object(run_dir / PROVENANCE_FILE),
            records=_read_records(run_dir / METRICS_FILE),
            sample_files=list_samples(run_dir),
            heldout_files=list_heldout(run_dir),
            alarm_files=list_alarms(run_dir),
        )
        for run_dir, config, label in zip(
            run_dirs, configs, _labels(run_dirs, configs), strict=True
        )
    ]


def _labels(run_dirs: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name of the run; with its directory where two runs share a name."""
    pairs = list(zip(configs, run_dirs, strict=True))
    names = [str(config.get("run", {}).get("name", run_dir.name)) for config, run_dir in pairs]
    for suffixes in (
        [run_dir.name for run_dir in run_dirs],
        [str(run_dir) for run_dir in run_dirs],
    ):
        labels = [
            name if names.count(name) == 1 else f"{name} ({suffix})"
            for name, suffix in zip(names, suffixes, strict=True)
        ]
        if len(set(labels)) == len(labels):
            return labels
    raise ValueError(f"a run directory is given twice: {[str(run_dir) for run_dir in run_dirs]}")


def _read_config(run_dir: Path) -> Mapping[str, Any]:
    config = _read_object(run_dir / CONFIG_FILE)
    if config is None:
        raise ValueError(f"{run_dir / CONFIG_FILE} is missing, so {run_dir} is no run directory")
    if not isinstance(config.get("run", {}), dict):
        raise ValueError(f"{run_dir / CONFIG_FILE} is no configuration: run must be a mapping")
    return config


def _read_object(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _read_records(path: Path) -> list[MetricRecord]:
    if not path.is_file():
        return []
    # A resumed run evaluates its checkpoint again: the later line replaces the earlier one.
    latest: dict[tuple[int, MetricKind], MetricRecord] = {
        (record.step, record.kind): record for record in read_metric_log(path)
    }
    return [latest[key] for key in sorted(latest, key=lambda key: (key[0], key[1].value))]
