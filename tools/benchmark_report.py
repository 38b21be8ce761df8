"""Measure how long a report over 10,000 rollouts takes to build, open and search, and the theory.

    python tools/benchmark_report.py --record tests/records/report.json

The run is made up: 40 steps, documents of 12 short chunks. Opening is measured in headless
Chromium, from the request for the file to the moment at which the page says that it is drawn;
searching from the last key to the list that holds what was found. Building and the commands are
measured from their start to their end, imports included; each number is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.observability.provenance import record_header
from tests.support.browser import Visit, open_browser
from tests.support.report_runs import write_run

ROOT = Path(__file__).parents[1]
STEPS, SAMPLE_FILES = 40, 4
Result = TypeVar("Result")
SOUGHT = "thought of s30p624."


def main() -> None:
    """Read arguments, measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rollouts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5, help="of building and opening")
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure_report(Path(folder), arguments.rollouts, arguments.rounds)
        seconds = {**report, "theory_s": round(time_command("theory", "--output", folder), 1)}
    what = f"longrlvr report over {arguments.rollouts} rollouts in Chromium, and longrlvr theory"
    record = {**record_header(what), "rounds": arguments.rounds, **seconds}
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def measure_report(folder: Path, num_rollouts: int, rounds: int) -> dict[str, object]:
    """Build and open the report of a run with this many rollouts of training."""
    run_dir = write_run(folder / "run", steps=STEPS, rollouts_per_file=num_rollouts // SAMPLE_FILES)
    page = folder / "report.html"
    limit = ("--max-rollouts", str(2 * num_rollouts))
    build = [
        time_command("report", str(run_dir), "--output", str(page), *limit) for _ in range(rounds)
    ]
    opened, found = [], []
    with open_browser() as browser:
        version = browser.version
        for _ in range(rounds):
            seconds, visit = timed(lambda: Visit(browser, page))
            opened.append(seconds)
            found.append(time_search(visit))
            visit.close()
    return {
        "chromium": version,
        "page_mb": round(page.stat().st_size / 1e6, 1),
        "build_s": round(statistics.median(build), 1),
        "open_s": round(statistics.median(opened), 2),
        "search_s": round(statistics.median(found), 2),
    }


def time_search(visit: Visit) -> float:
    """Seconds until the list of rollouts shows what a text is found in."""
    visit.show("rollouts")
    status = visit.page.locator("#section-rollouts [role=status]")
    before = status.inner_text()

    def search() -> None:
        visit.page.fill("input[name=text]", SOUGHT)
        visit.page.wait_for_function(
            "before => document.querySelector('#section-rollouts [role=status]').innerText"
            " !== before",
            arg=before,
        )

    return timed(search)[0]


def time_command(*arguments: str) -> float:
    """Seconds from the start of a command to its end."""
    command = [sys.executable, "-m", "megatron_longrlvr", *arguments]
    return timed(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL))[
        0
    ]


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds that work took, and what it gave."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
