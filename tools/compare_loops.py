"""Train the toy task with each loop, side by side, and compare records, learning and time.

    python tools/compare_loops.py --record tests/records/loops.json
    python tools/compare_loops.py --recipe tiny_ppo_cpu --record tests/records/loops_ppo.json

Both runs are ``longrlvr train`` of the recipe from the same start with the same seed, in as many
processes as asked for, at the same time: they share whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.aligner.presence import find_presence
from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.metric_log import MetricKind, MetricRecord, read_metric_log

ROOT = Path(__file__).parents[1]
LOOPS = ("native", "nemo_aligner")
# What a clock or an allocator measures, and what one of the loops says alone.
NOT_COMPARED = ("timing/", "memory/", "rollout/tokens_per_s", "aligner/")


def main() -> None:
    """Read arguments, train, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="tiny_cpu")
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--record", type=Path, help="write the measurement here")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dirs = {loop: Path(folder) / loop for loop in LOOPS}
        cpu_seconds = train(arguments.recipe, dirs, arguments.procs, arguments.overrides)
        records = {loop: read_metric_log(path / "metrics.jsonl") for loop, path in dirs.items()}
    measured = {
        "differing_metrics": differing(records["native"], records["nemo_aligner"]),
        "held_out": {loop: held_out(records[loop]) for loop in LOOPS},
        "cpu_seconds_of_all_processes": cpu_seconds,
        "cpu_ratio": round(cpu_seconds["nemo_aligner"] / cpu_seconds["native"], 3),
    }
    record = describe(measured, arguments.recipe, arguments.procs, arguments.overrides)
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def train(recipe: str, dirs: dict[str, Path], procs: int, overrides: list[str]) -> dict[str, float]:
    """Train with all loops at once; CPU seconds of each, start included."""
    running = {}
    for loop, run_dir in dirs.items():
        command = [
            *(sys.executable, "-m", "launch.torchrun", "--standalone"),
            *("--local-addr", "127.0.0.1", "--nproc-per-node", str(procs)),
            *("-m", "megatron_longrlvr", "train", recipe),
            *(f"trainer.loop={loop}", f"run.dir={run_dir}", *overrides),
        ]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        running[process.pid] = (loop, process)
    seconds = {}
    while running:
        pid, status, usage = os.wait3(0)
        loop, process = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the run with trainer.loop={loop} ended with {process.returncode}")
        seconds[loop] = round(usage.ru_utime + usage.ru_stime, 1)
    return seconds


def differing(own: list[MetricRecord], aligned: list[MetricRecord]) -> list[str]:
    """``kind step metric`` of every number that is not the same to the last bit."""
    if [(one.kind, one.step) for one in own] != [(one.kind, one.step) for one in aligned]:
        return ["the runs hold other records"]
    return [
        f"{one.kind.value} {one.step} {name}"
        for one, other in zip(own, aligned, strict=True)
        for name in sorted(one.metrics.keys() | other.metrics.keys())
        if not name.startswith(NOT_COMPARED) and one.metrics.get(name) != other.metrics.get(name)
    ]


def held_out(records: list[MetricRecord]) -> list[dict[str, float]]:
    """Held-out scores by step."""
    return [
        {
            "step": record.step,
            "f2": round(record.metrics[names.EVAL_CONTEXT_F_BETA_MEAN], 4),
            "answer": round(record.metrics[names.EVAL_ANSWER_MEAN], 4),
        }
        for record in records
        if record.kind is MetricKind.EVAL
    ]


def describe(
    measured: dict[str, object], recipe: str, procs: int, overrides: list[str]
) -> dict[str, object]:
    """The measurement with what it was taken on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "what": f"recipe {recipe} with either loop, at the same time, one seed; what differs but "
        "clocks and allocators, held-out scores, CPU seconds with start and evaluation",
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "megatron-core")},
            "loop": find_presence().describe(),
        },
        "processes": procs,
        "overrides": overrides,
        **measured,
    }


if __name__ == "__main__":
    main()
