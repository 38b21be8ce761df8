"""What a person sees while a run goes on: a live table, or one line a step.

Only one rank shows anything; the others hold a :class:`NullProgress`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from megatron_longrlvr.observability import names

_BAR_WIDTH = 32

TRAIN_NAMES = (
    names.REWARD_MEAN,
    names.REWARD_CONTEXT_RECALL_MEAN,
    names.REWARD_CONTEXT_F_BETA_MEAN,
    names.REWARD_ANSWER_MEAN,
)
EVAL_NAMES = (
    names.EVAL_REWARD_MEAN,
    names.EVAL_CONTEXT_RECALL_MEAN,
    names.EVAL_CONTEXT_F_BETA_MEAN,
    names.EVAL_ANSWER_MEAN,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The four numbers a person watches; NaN where unmeasured."""

    reward: float
    recall: float
    f_beta: float
    answer: float

    @classmethod
    def of(cls, metrics: Mapping[str, float], score_names: tuple[str, str, str, str]) -> Scores:
        """Pick the scores by ``TRAIN_NAMES`` or ``EVAL_NAMES``."""
        reward, recall, f_beta, answer = (metrics.get(name, math.nan) for name in score_names)
        return cls(reward=reward, recall=recall, f_beta=f_beta, answer=answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepView:
    """One finished step."""

    step: int
    num_steps: int
    scores: Scores
    tokens_per_s: float
    """Response tokens over the whole step, all ranks."""

    remaining_s: float
    """NaN before anything can be said."""


class Progress(Protocol):
    """Shows the course of one run."""

    def show_step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def show_eval(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class NullProgress:
    """Shows nothing."""

    def show_step(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def show_eval(self, step: int, metrics: Mapping[str, float]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


@dataclass(kw_only=True)
class StepClock:
    """Tells the time left from the steps this process has made."""

    num_steps: int
    first_step: int
    """Last step finished before this process started; 0 for a new run."""

    now_s: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._start_s = self.now_s()

    def view(self, step: int, metrics: Mapping[str, float]) -> StepView:
        """Describe a step that has just finished."""
        num_done = step - self.first_step
        elapsed_s = self.now_s() - self._start_s
        per_step_s = elapsed_s / num_done if num_done > 0 else math.nan
        return StepView(
            step=step,
            num_steps=self.num_steps,
            scores=Scores.of(metrics, TRAIN_NAMES),
            tokens_per_s=metrics.get(names.ROLLOUT_TOKENS_PER_S, math.nan),
            remaining_s=per_step_s * (self.num_steps - step),
        )


class LineProgress:
    """Prints lines, for logs and pipes."""

    def __init__(self, clock: StepClock, *, console: Console, beta: float, every: int = 1) -> None:
        """Print every so many steps, and the last."""
        self._clock = clock
        self._console = console
        self._beta = beta
        self._every = every

    def show_step(self, step: int, metrics: Mapping[str, float]) -> None:
        if step % self._every == 0 or step == self._clock.num_steps:
            self.say(format_step_line(self._clock.view(step, metrics), beta=self._beta))

    def show_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self.say(format_eval_line(step, Scores.of(metrics, EVAL_NAMES), beta=self._beta))

    def say(self, text: str) -> None:
        # Without soft_wrap a narrow console would break lines that people grep.
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None: ...


class LiveProgress:
    """Keeps a small table in place, for terminals."""

    def __init__(self, clock: StepClock, *, console: Console, beta: float, title: str) -> None:
        self._clock = clock
        self._beta = beta
        self._title = title
        self._view = clock.view(clock.first_step, {})
        self._heldout: tuple[int, Scores] | None = None
        self._live = Live(self._render(), console=console, refresh_per_second=4)
        self._live.start()

    def show_step(self, step: int, metrics: Mapping[str, float]) -> None:
        self._view = self._clock.view(step, metrics)
        self._live.update(self._render())

    def show_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        self._heldout = (step, Scores.of(metrics, EVAL_NAMES))
        self._live.update(self._render())

    def say(self, text: str) -> None:
        self._live.console.print(Text(text))

    def close(self) -> None:
        self._live.update(self._render(), refresh=True)
        self._live.stop()

    def _render(self) -> RenderableType:
        return render_table(self._view, self._heldout, beta=self._beta, title=self._title)


def open_progress(
    *, title: str, num_steps: int, first_step: int = 0, beta: float = 2.0, line_every: int = 1
) -> Progress:
    """Show a run the way standard output allows: live on a terminal, else line by line.

    Args:
        title: Name of the run.
        num_steps: Length of the run.
        first_step: Last step that an earlier process finished.
        beta: Names the F-beta column.
        line_every: Print every so many steps where there is no terminal.
    """
    console = Console(highlight=False)
    clock = StepClock(num_steps=num_steps, first_step=first_step)
    if console.is_terminal:
        return LiveProgress(clock, console=console, beta=beta, title=title)
    return LineProgress(clock, console=console, beta=beta, every=line_every)


def format_step_line(view: StepView, *, beta: float) -> str:
    """One line about a step; ``-`` where something was not measured."""
    width = len(str(view.num_steps))
    return (
        f"step {view.step:>{width}}/{view.num_steps}  {_format_scores(view.scores, beta=beta)}  "
        f"{_number(view.tokens_per_s, ',.0f'):>6} tokens/s  ETA {format_duration(view.remaining_s)}"
    )


def format_eval_line(step: int, scores: Scores, *, beta: float) -> str:
    """One line about a held-out measurement."""
    return f"held-out at step {step}  {_format_scores(scores, beta=beta)}"


def format_duration(seconds: float) -> str:
    """``45s``, ``3m05s``, ``2h07m``, ``4d03h``; ``-`` for NaN."""
    if not math.isfinite(seconds):
        return "-"
    minutes, left_s = divmod(round(seconds), 60)
    hours, left_minutes = divmod(minutes, 60)
    days, left_hours = divmod(hours, 24)
    if days:
        return f"{days}d{left_hours:02d}h"
    if hours:
        return f"{hours}h{left_minutes:02d}m"
    return f"{minutes}m{left_s:02d}s" if minutes else f"{left_s}s"


def render_table(
    view: StepView, heldout: tuple[int, Scores] | None, *, beta: float, title: str
) -> RenderableType:
    """Draw the live display: a bar and a row each for training and held-out scores."""
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        Text(title, style="bold"),
        ProgressBar(total=view.num_steps, completed=view.step, width=_BAR_WIDTH),
        f"step {view.step}/{view.num_steps}",
        f"ETA {format_duration(view.remaining_s)}",
        f"{_number(view.tokens_per_s, ',.0f')} tokens/s",
    )
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("")
    for header in ("reward", "recall", f"F{beta:g}", "answer"):
        table.add_column(header, justify="right", min_width=6)
    table.add_row("training", *_cells(view.scores))
    if heldout is not None:
        step, scores = heldout
        table.add_row(f"held-out at step {step}", *_cells(scores), style="bold")
    return Group(bar, table)


def _format_scores(scores: Scores, *, beta: float) -> str:
    reward, recall, f_beta, answer = _cells(scores)
    return f"reward {reward}  recall {recall}  F{beta:g} {f_beta}  answer {answer}"


def _cells(scores: Scores) -> tuple[str, str, str, str]:
    values = (scores.reward, scores.recall, scores.f_beta, scores.answer)
    reward, recall, f_beta, answer = (f"{_number(value, '.3f'):>5}" for value in values)
    return reward, recall, f_beta, answer


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
