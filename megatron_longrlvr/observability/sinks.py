"""Where metrics go: the log that everything else is built from, TensorBoard, Weights & Biases."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from megatron_longrlvr.observability.metric_log import (
    METRICS_FILE,
    MetricKind,
    MetricLog,
    MetricRecord,
)

WANDB_PROJECT = "megatron-longrlvr"


class MetricSink(Protocol):
    """Takes measurements in the order of steps."""

    def write(self, metrics: Mapping[str, float], *, step: int, kind: MetricKind) -> None: ...
    def close(self) -> None: ...


class JsonlSink:
    """Writes ``metrics.jsonl``; see :class:`MetricLog`."""

    def __init__(self, path: Path, *, last_kept_step: int | None = None) -> None:
        self._log = MetricLog(path, last_kept_step=last_kept_step)

    def write(self, metrics: Mapping[str, float], *, step: int, kind: MetricKind) -> None:
        self._log.append(MetricRecord(step=step, kind=kind, metrics=metrics))

    def close(self) -> None:
        self._log.close()


class TensorBoardSink:
    """Writes event files; names already tell training from evaluation."""

    def __init__(self, directory: Path, *, last_kept_step: int | None = None) -> None:
        """Open an event file.

        Raises:
            RuntimeError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RuntimeError(
                "trainer.tensorboard=true needs TensorBoard; pip install tensorboard, or set "
                "trainer.tensorboard=false"
            ) from error
        purge_step = None if last_kept_step is None else last_kept_step + 1
        self._writer: Any = SummaryWriter(str(directory), purge_step=purge_step)

    def write(self, metrics: Mapping[str, float], *, step: int, kind: MetricKind) -> None:  # noqa: ARG002
        for name, value in metrics.items():
            # A gap in the curve says "not measured" better than a NaN marker does.
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """Sends measurements to Weights & Biases."""

    def __init__(self, *, run_name: str, run_dir: Path, config: Mapping[str, object]) -> None:
        """Start a run in the project ``megatron-longrlvr``.

        Raises:
            RuntimeError: The package is not installed.
        """
        try:
            wandb: Any = import_module("wandb")
        except ImportError as error:
            raise RuntimeError(
                "WANDB_API_KEY is set but wandb is not installed; pip install wandb, or unset "
                "WANDB_API_KEY"
            ) from error
        self._run: Any = wandb.init(
            project=WANDB_PROJECT, name=run_name, dir=str(run_dir), config=dict(config)
        )

    def write(self, metrics: Mapping[str, float], *, step: int, kind: MetricKind) -> None:  # noqa: ARG002
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class CompositeSink:
    """Writes to several sinks, in order."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self._sinks = tuple(sinks)

    def write(self, metrics: Mapping[str, float], *, step: int, kind: MetricKind) -> None:
        for sink in self._sinks:
            sink.write(metrics, step=step, kind=kind)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def open_sinks(
    run_dir: Path,
    *,
    run_name: str,
    config: Mapping[str, object],
    tensorboard: bool,
    last_kept_step: int | None = None,
) -> CompositeSink:
    """Open the sinks of a run; one rank calls this.

    Args:
        run_dir: Receives ``metrics.jsonl`` and ``tensorboard/``.
        run_name: Name shown by Weights & Biases, which is used where WANDB_API_KEY is set.
        config: Resolved configuration, for Weights & Biases.
        tensorboard: Write event files as well.
        last_kept_step: As for :class:`MetricLog`.

    Raises:
        RuntimeError: A sink that was asked for is not installed, or the log has records already.
    """
    sinks: list[MetricSink] = [JsonlSink(run_dir / METRICS_FILE, last_kept_step=last_kept_step)]
    if tensorboard:
        sinks.append(TensorBoardSink(run_dir / "tensorboard", last_kept_step=last_kept_step))
    if os.environ.get("WANDB_API_KEY"):
        sinks.append(WandbSink(run_name=run_name, run_dir=run_dir, config=config))
    return CompositeSink(sinks)
