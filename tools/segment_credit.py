"""Compare segment credit with one advantage for a whole response, and write the record.

    python tools/segment_credit.py --output tests/records/segment_credit.json
    python tools/segment_credit.py --only segment --seeds 1 --dry-run

Every run is ``longrlvr train tiny_cpu`` from the shipped start, in one process, and is measured on
512 held-out prompts every five steps. What is compared is the number of steps until F2 and the
share of right answers first come to 0.5 and to 0.8, between two measurements by a straight line. A
run that is finished in --runs is not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from toy_experiment import ROOT, Experiment, command, run

from megatron_longrlvr.observability.provenance import record_header

STEPS = 160
SEEDS = 3
CREDITS = ("sequence", "segment")
THRESHOLDS = [(score, at) for score in ("f2", "answer") for at in (0.5, 0.8)]


def experiment(credit: str) -> Experiment:
    """One kind of credit."""
    overrides = (f"algorithm.credit={credit}", "trainer.eval_every=5")
    return Experiment(name=credit, overrides=overrides, steps=STEPS, seeds=SEEDS)


def steps_to(curve: Sequence[dict[str, float]], score: str, threshold: float) -> float | None:
    """Steps until a held-out score first comes to a threshold; None where it never does."""
    for before, after in pairwise(curve):
        low, high = before[score], after[score]
        if low < threshold <= high:
            share = (threshold - low) / (high - low)
            return before["step"] + share * (after["step"] - before["step"])
    return None


def compare(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps of each seed to each threshold, and the ratio of their means."""
    rows = []
    for score, threshold in THRESHOLDS:
        row: dict[str, Any] = {"score": score, "threshold": threshold}
        for credit in CREDITS:
            curves = [one["held_out"] for one in results if one["experiment"] == credit]
            row[credit] = [steps_to(curve, score, threshold) for curve in curves]
        reached = [[one for one in row[credit] if one is not None] for credit in CREDITS]
        if all(len(found) == len(row[CREDITS[0]]) > 0 for found in reached):
            sequence, segment = map(statistics.mean, reached)
            row["times_faster"] = round(sequence / segment, 3)
        rows.append(row)
    return rows


def ends(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over seeds of the last measurement."""
    table = {}
    for credit in CREDITS:
        last = [one["held_out"][-1] for one in results if one["experiment"] == credit]
        if last:
            table[credit] = {
                score: statistics.mean(one[score] for one in last) for score in ("f2", "answer")
            }
    return table


def main() -> None:
    """Run what is asked for and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "tests/records/segment_credit.json")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/segment_credit")
    parser.add_argument("--only", choices=CREDITS, help="one kind of credit; default both")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds 0, 1, ... (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    arguments = parser.parse_args()
    runs = arguments.runs.absolute()
    kinds = [experiment(credit) for credit in CREDITS if arguments.only in (None, credit)]
    jobs = [(kind, seed) for seed in range(arguments.seeds) for kind in kinds]
    if arguments.dry_run:
        for kind, seed in jobs:
            print(" ".join(command(kind, seed, runs / f"{kind.name}-{seed}")))
        return
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(lambda job: run(*job, runs), jobs))
    record = {
        **record_header(
            "steps to held-out scores on the toy task (recipe tiny_cpu), 512 prompts, T = 1",
            note=f"one thread a run, {arguments.workers} at a time",
        ),
        "steps": STEPS,
        "comparison": compare(results),
        "end": ends(results),
        "runs": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    for row in record["comparison"]:
        print(row)


if __name__ == "__main__":
    main()
