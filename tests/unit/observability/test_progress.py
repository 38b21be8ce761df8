"""Progress: exact lines, the time left, and the choice between table and lines."""

import io
import math

import pytest
from rich.console import Console

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.progress import (
    LineProgress,
    LiveProgress,
    NullProgress,
    Scores,
    StepClock,
    StepView,
    format_duration,
    format_eval_line,
    format_step_line,
    open_progress,
    render_table,
)

SCORES = Scores(reward=0.4815, recall=0.7125, f_beta=0.66, answer=0.25)
VIEW = StepView(step=7, num_steps=40, scores=SCORES, tokens_per_s=3104.6, remaining_s=65.2)
METRICS = {
    names.REWARD_MEAN: 0.5,
    names.REWARD_CONTEXT_RECALL_MEAN: 0.25,
    names.REWARD_CONTEXT_F_BETA_MEAN: 0.125,
    names.REWARD_ANSWER_MEAN: 0.0,
    names.ROLLOUT_TOKENS_PER_S: 250.0,
}
EVAL = {
    names.EVAL_REWARD_MEAN: 1.0,
    names.EVAL_CONTEXT_RECALL_MEAN: 0.75,
    names.EVAL_CONTEXT_F_BETA_MEAN: 0.5,
    names.EVAL_ANSWER_MEAN: 0.375,
}


class Ticks:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self):
        return self.now


def make_clock(ticks, *, num_steps=10, first_step=0):
    return StepClock(num_steps=num_steps, first_step=first_step, now_s=ticks)


def make_console():
    return Console(file=io.StringIO(), width=60, highlight=False)


def test_step_line():
    assert format_step_line(VIEW, beta=2.0) == (
        "step  7/40  reward 0.481  recall 0.713  F2 0.660  answer 0.250   3,105 tokens/s  ETA 1m05s"
    )


def test_step_line_with_nothing_measured():
    nothing = Scores(reward=math.nan, recall=math.nan, f_beta=math.nan, answer=math.nan)
    view = StepView(
        step=1, num_steps=5, scores=nothing, tokens_per_s=math.nan, remaining_s=math.nan
    )
    assert format_step_line(view, beta=0.5) == (
        "step 1/5  reward     -  recall     -  F0.5     -  answer     -       - tokens/s  ETA -"
    )


def test_eval_line():
    assert format_eval_line(20, SCORES, beta=2.0) == (
        "held-out at step 20  reward 0.481  recall 0.713  F2 0.660  answer 0.250"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0.4, "0s", id="nothing"),
        pytest.param(59.4, "59s", id="seconds"),
        pytest.param(59.6, "1m00s", id="rounded-up-to-a-minute"),
        pytest.param(3599.7, "1h00m", id="rounded-up-to-an-hour"),
        pytest.param(7650, "2h07m", id="hours"),
        pytest.param(4 * 86400 + 3 * 3600 + 59, "4d03h", id="days"),
        pytest.param(math.nan, "-", id="unknown"),
    ],
)
def test_duration(seconds, text):
    assert format_duration(seconds) == text


def test_time_left_counts_the_steps_of_this_process_only():
    ticks = Ticks()
    clock = make_clock(ticks, num_steps=10, first_step=4)
    ticks.now += 6.0
    # Two steps in 6 s; four are left.
    assert clock.view(6, {}).remaining_s == 12.0


def test_time_left_is_unknown_before_a_step_is_done():
    assert math.isnan(make_clock(Ticks(), first_step=4).view(4, {}).remaining_s)


def test_lines_every_second_step_and_the_last():
    console, ticks = make_console(), Ticks()
    progress = LineProgress(make_clock(ticks, num_steps=5), console=console, beta=2.0, every=2)
    for step in range(1, 6):
        ticks.now += 1.0
        progress.show_step(step, METRICS)
    progress.show_eval(5, EVAL)
    progress.close()
    scores = "reward 0.500  recall 0.250  F2 0.125  answer 0.000     250 tokens/s"
    assert console.file.getvalue().splitlines() == [
        f"step 2/5  {scores}  ETA 3s",
        f"step 4/5  {scores}  ETA 1s",
        f"step 5/5  {scores}  ETA 0s",
        "held-out at step 5  reward 1.000  recall 0.750  F2 0.500  answer 0.375",
    ]


def test_square_brackets_in_a_message_are_text():
    console = make_console()
    LineProgress(make_clock(Ticks()), console=console, beta=2.0).say("saved [bold]x[/bold]")
    assert console.file.getvalue() == "saved [bold]x[/bold]\n"


def test_table_shows_training_and_heldout_scores():
    console = Console(file=io.StringIO(), width=120)
    heldout = Scores(reward=1.0, recall=0.75, f_beta=0.5, answer=0.375)
    console.print(render_table(VIEW, (5, heldout), beta=2.0, title="toy"))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert (rows[0][0], rows[0][-6:]) == (
        "toy",
        ["step", "7/40", "ETA", "1m05s", "3,105", "tokens/s"],
    )
    assert rows[1] == ["reward", "recall", "F2", "answer"]
    assert rows[2] == ["training", "0.481", "0.713", "0.660", "0.250"]
    assert rows[3] == ["held-out", "at", "step", "5", "1.000", "0.750", "0.500", "0.375"]


def test_live_display_ends_on_the_last_step():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    ticks = Ticks()
    progress = LiveProgress(make_clock(ticks, num_steps=2), console=console, beta=2.0, title="toy")
    progress.show_eval(0, EVAL)
    for step in (1, 2):
        ticks.now += 1.0
        progress.show_step(step, METRICS)
    progress.close()
    shown = console.file.getvalue()
    last = shown[shown.rindex("toy") :]
    assert "step 2/2" in last
    assert "250 tokens/s" in last
    assert "held-out at step 0" in last


def test_pipe_gets_lines(capsys):
    progress = open_progress(title="toy", num_steps=3)
    progress.show_step(1, METRICS)
    progress.close()
    assert capsys.readouterr().out.startswith("step 1/3  reward 0.500")


def test_null_progress_shows_nothing(capsys):
    progress = NullProgress()
    progress.show_step(1, METRICS)
    progress.show_eval(1, EVAL)
    progress.say("text")
    progress.close()
    assert capsys.readouterr().out == ""
