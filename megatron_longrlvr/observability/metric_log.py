"""``metrics.jsonl``: one JSON object per measurement, the only source of curves and tables.

    {"step": 12, "kind": "train", "reward/mean": 0.482, "update/grad_norm": null, ...}

``null`` stands for what could not be measured: JSON has no NaN and no infinity.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from megatron_longrlvr.errors import DataError
from megatron_longrlvr.files import write_atomically

METRICS_FILE = "metrics.jsonl"

_HEADER = ("step", "kind")
_NO_RECORD = (
    *(ValueError, KeyError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)


class MetricKind(StrEnum):
    """What a record measures."""

    TRAIN = "train"
    EVAL = "eval"


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricRecord:
    """One line of the log."""

    step: int
    """Optimizer steps in the policy after the record's step; 0 is the starting policy."""

    kind: MetricKind
    metrics: Mapping[str, float | None]

    def to_json(self) -> str:
        """One line, without the line break."""
        content = {"step": self.step, "kind": self.kind.value}
        return json.dumps(content | {name: _finite(value) for name, value in self.metrics.items()})


class MetricLog:
    """Appends whole lines; a line is on disk before the next step starts."""

    def __init__(self, path: Path, *, last_kept_step: int | None = None) -> None:
        """Open a log, cutting off what a resumed run will measure again.

        Args:
            path: Created with its directory when absent.
            last_kept_step: Step of the checkpoint that the run resumes from; records of later
                steps are removed, with -1 all. None starts a new log and refuses one with records.

        Raises:
            RuntimeError: The log has records and ``last_kept_step`` is None.
            DataError: A line is not a record.
        """
        records = read_metric_log(path) if path.exists() else []
        if records and last_kept_step is None:
            raise RuntimeError(
                f"{path} already holds {len(records)} records; resume that run or choose another "
                "run.dir"
            )
        kept = [record for record in records if record.step <= (last_kept_step or 0)]
        write_atomically(path, "".join(record.to_json() + "\n" for record in kept))
        self._file = path.open("ab")

    def append(self, record: MetricRecord) -> None:
        """Add a line and wait until it is on disk."""
        self._file.write(record.to_json().encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Nothing is left to write; closing releases the file."""
        self._file.close()


def read_metric_log(path: Path) -> list[MetricRecord]:
    """Read a log in the order of its lines.

    A last line without a line break is what a crash left of a record and is passed over.

    Raises:
        DataError: A complete line is not a record; names file and line.
    """
    # As bytes, so that a line in another encoding can be named.
    lines = path.read_bytes().split(b"\n")[:-1]
    return [_parse(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _parse(line: bytes, place: str) -> MetricRecord:
    try:
        content = json.loads(line.decode("utf-8"))
        metrics = {name: value for name, value in content.items() if name not in _HEADER}
        for value in metrics.values():
            if value is not None:
                math.isfinite(value)  # Raises where it is no number, or a larger one than a float.
        return MetricRecord(
            step=int(content["step"]), kind=MetricKind(content["kind"]), metrics=metrics
        )
    except _NO_RECORD as error:
        raise DataError(f"{place} is not a metric record: {error!r}") from error


def _finite(value: float | None) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None
