"""Progress of a stage: what is left, what was paid and what all of it may come to, by hand."""

import io

import pytest
from rich.console import Console

from megatron_longrlvr.data.synthesis import progress
from megatron_longrlvr.data.synthesis.outcome import (
    Attempt,
    Dropped,
    Fault,
    Outcome,
    Quarantined,
    Reason,
)

ROW = Outcome(rows=("row", "row"))
DROP = Outcome(dropped=(Dropped(item="a", reason=Reason.TOO_SHORT),))
LOST = Outcome(
    quarantined=(Quarantined(item="b", attempts=(Attempt(fault=Fault.CUT, detail="", raw=""),)),)
)


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_lines_of_a_log_hold_time_left_and_cost(clock):
    written = io.StringIO()
    with progress.StageProgress(Console(file=written), "generate", num_items=12) as shown:
        clock.now_s += 20
        shown.advance(ROW)  # not half a minute since the last line
        shown.spend(prompt_tokens=9000, reply_tokens=400, cost=0.5)
        shown.spend(prompt_tokens=9000, reply_tokens=500, cost=0.25)
        clock.now_s += 20
        shown.advance(DROP)
        shown.advance(LOST)
    # 40 s for 2 items of 12, 0.75 for 2 of 12; then for all 3 that were done.
    lines = written.getvalue().splitlines()
    assert lines == [
        "generate: 2 of 12 in 40 s, about 200 s left; 2 rows, 1 dropped; "
        "2 requests, 18K + 900 tokens, cost 0.75 of about 4.50",
        "generate: 3 of 12 in 40 s, about 120 s left; 2 rows, 1 dropped, 1 quarantined; "
        "2 requests, 18K + 900 tokens, cost 0.75 of about 3.00",
    ]
