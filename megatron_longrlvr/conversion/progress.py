"""How far a conversion is: a bar with GB/s and the time that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from megatron_longrlvr.observability.heartbeat import beat

Advance = Callable[[int], None]
"""Told the bytes that are done since the last call."""

_BYTES_PER_GB = 1000**3


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- GB/s" if speed is None else f"{speed / _BYTES_PER_GB:.2f} GB/s")


@contextmanager
def progress_bar(title: str, *, total_bytes: int, is_shown: bool = True) -> Iterator[Advance]:
    """Show a bar on standard error while this is open; under a pipe one line, at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        _Speed(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, disable=not is_shown) as progress:
        task = progress.add_task(title, total=total_bytes)

        def advance(done: int) -> None:
            beat()
            progress.advance(task, done)

        yield advance


def ignore_progress(done: int) -> None:
    """Show nothing."""
