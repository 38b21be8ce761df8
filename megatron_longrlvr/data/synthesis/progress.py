"""What a person sees of a stage: items, time left, drops, and what models were asked for."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from megatron_longrlvr.data.synthesis.outcome import Outcome

# Between two lines in a log file.
_LINE_EVERY_S = 30.0


class StageProgress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, stage: str, *, num_items: int) -> None:
        self._console = console
        self._stage = stage
        self._num_items = num_items
        self._num_done = self._num_rows = self._num_dropped = self._num_quarantined = 0
        self.prompt_tokens = self.reply_tokens = self.num_requests = 0
        """Of requests that were sent now; kept replies cost nothing."""

        self.cost = 0.0
        self._started = self._said = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(stage, total=num_items, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal and kind is None:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def advance(self, outcome: Outcome) -> None:
        """Count a finished item."""
        self._num_done += 1
        self._num_rows += len(outcome.rows)
        self._num_dropped += len(outcome.dropped)
        self._num_quarantined += len(outcome.quarantined)
        self._show()

    def spend(self, *, prompt_tokens: int, reply_tokens: int, cost: float) -> None:
        """Count a reply that was sent for."""
        self.num_requests += 1
        self.prompt_tokens += prompt_tokens
        self.reply_tokens += reply_tokens
        self.cost += cost

    def _show(self) -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._num_done, note=self._note())
        elif time.monotonic() - self._said > _LINE_EVERY_S:
            self._said = time.monotonic()
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def _line(self) -> str:
        elapsed = time.monotonic() - self._started
        text = f"{self._stage}: {self._num_done} of {self._num_items} in {elapsed:.0f} s"
        if 0 < self._num_done < self._num_items:
            left = elapsed / self._num_done * (self._num_items - self._num_done)
            text += f", about {left:.0f} s left"
        return f"{text}; {self._note()}"

    def _note(self) -> str:
        note = f"{self._num_rows} rows, {self._num_dropped} dropped"
        if self._num_quarantined:
            note += f", {self._num_quarantined} quarantined"
        if self.num_requests:
            note += f"; {self.num_requests} requests, {_thousands(self.prompt_tokens)} + "
            note += f"{_thousands(self.reply_tokens)} tokens"
        if self.cost:
            total = self.cost / max(self._num_done, 1) * self._num_items
            note += f", cost {self.cost:.2f} of about {total:.2f}"
        return note


def _thousands(count: int) -> str:
    return str(count) if count < 1000 else f"{count / 1000:.0f}K"
