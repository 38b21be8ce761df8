"""What a run leaves behind as it goes: records, samples, a display. One rank writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from megatron_longrlvr.config.section import Section
from megatron_longrlvr.observability.metric_log import MetricKind
from megatron_longrlvr.observability.progress import NullProgress, Progress, open_progress
from megatron_longrlvr.observability.provenance import collect_provenance, write_provenance
from megatron_longrlvr.observability.sinks import CompositeSink, open_sinks


class Journal:
    """Metrics to their sinks and to the display; silent on all ranks but the first."""

    def __init__(self, sinks: CompositeSink | None, progress: Progress) -> None:
        self._sinks = sinks
        self._progress = progress

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a finished training step."""
        if self._sinks is not None:
            self._sinks.write(metrics, step=step, kind=MetricKind.TRAIN)
        self._progress.show_step(step, metrics)

    def record_quietly(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step without showing them."""
        if self._sinks is not None:
            self._sinks.write(metrics, step=step, kind=MetricKind.TRAIN)

    def record_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write held-out metrics of the policy after ``step``."""
        if self._sinks is not None:
            self._sinks.write(metrics, step=step, kind=MetricKind.EVAL)
        self._progress.show_eval(step, metrics)

    def say(self, text: str) -> None:
        """Tell the person who watches."""
        self._progress.say(text)

    def close(self) -> None:
        """Flush and close everything."""
        if self._sinks is not None:
            self._sinks.close()
        self._progress.close()


def open_journal(
    config: Section,
    run_dir: Path,
    *,
    run_name: str,
    num_steps: int,
    first_step: int,
    tensorboard: bool,
) -> Journal:
    """Open the journal of the rank that writes.

    Args:
        config: Resolved configuration.
        run_dir: The run's directory.
        run_name: Shown on the display.
        num_steps: Length of the run.
        first_step: Steps that an earlier start finished; records of later ones are cut off. With
            none finished, that is all of them: the start of the run is measured again, too.
        tensorboard: Write event files too.
    """
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    write_provenance(collect_provenance(gpu_names=gpus), run_dir)
    sinks = open_sinks(
        run_dir,
        run_name=run_name,
        config=config.model_dump(mode="json"),
        tensorboard=tensorboard,
        last_kept_step=first_step or -1,
    )
    progress = open_progress(title=run_name, num_steps=num_steps, first_step=first_step)
    return Journal(sinks, progress)


def silent_journal() -> Journal:
    """The journal of all other ranks."""
    return Journal(None, NullProgress())
