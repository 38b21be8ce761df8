"""Train the toy task with each loop, side by side, and compare records, learning and time.

    python tools/compare_loops.py --record tests/records/loops.json
    python tools/compare_loops.py --recipe tiny_ppo_cpu --record tests/records/loops_ppo.json
    python tools/compare_loops.py --nemo /with/nemo/bin/python --record tests/records/nemo.json \
        trainer.steps=3

``--nemo`` names the Python of another environment, which has NeMo: NeMo-Aligner's loop runs there,
too, and the record tells which names were NeMo's own.

The runs are ``longrlvr train`` of the recipe from the same start with the same seed, in as many
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
WITH_NEMO = "nemo_aligner, NeMo present"
TOLD = (names.REWARD_MEAN, names.UPDATE_LOSS, names.UPDATE_GRAD_NORM)
ASK_NAMES = """
import json
import sys
from importlib.metadata import packages_distributions, version
from megatron_longrlvr.aligner import library
owners = packages_distributions()
found = {one for name in sys.modules for one in owners.get(name, ())}
print(json.dumps({
    "loop": library.PRESENCE.describe(),
    "stand_ins": {one.name: one.reason.partition(" (/")[0] for one in library.STAND_INS},
    "imported": {name: version(name) for name in sorted(found, key=str.lower)},
}))
"""
# What a clock or an allocator measures, and what one of the loops says alone.
NOT_COMPARED = ("timing/", "memory/", "rollout/tokens_per_s", "aligner/")


def main() -> None:
    """Read arguments, train, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", default="tiny_cpu")
    parser.add_argument("--procs", type=int, default=2)
    parser.add_argument("--record", type=Path, help="write the measurement here")
    parser.add_argument("--nemo", type=Path, help="the Python of an environment with NeMo")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    runs = {loop: (sys.executable, loop) for loop in LOOPS}
    if arguments.nemo is not None:
        runs[WITH_NEMO] = (str(arguments.nemo), "nemo_aligner")
    with tempfile.TemporaryDirectory() as folder:
        dirs = {name: Path(folder) / name.replace(", ", "_").replace(" ", "_") for name in runs}
        cpu_seconds = train(arguments.recipe, runs, dirs, arguments.procs, arguments.overrides)
        records = {name: read_metric_log(path / "metrics.jsonl") for name, path in dirs.items()}
    measured: dict[str, object] = {
        "differing_metrics": differing(records["native"], records["nemo_aligner"]),
        "held_out": {name: held_out(records[name]) for name in runs},
        "cpu_seconds_of_all_processes": cpu_seconds,
        "cpu_ratio": round(cpu_seconds["nemo_aligner"] / cpu_seconds["native"], 3),
    }
    if arguments.nemo is not None:
        measured["nemo_present"] = {
            "differing_metrics": differing(records["native"], records[WITH_NEMO]),
            "compared_numbers": num_compared(records["native"]),
            **ask_names(arguments.nemo),
        }
        measured["steps"] = {name: steps(records[name]) for name in runs}
    record = describe(measured, arguments.recipe, arguments.procs, arguments.overrides)
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def train(
    recipe: str,
    runs: dict[str, tuple[str, str]],
    dirs: dict[str, Path],
    procs: int,
    overrides: list[str],
) -> dict[str, float]:
    """Train all at once, each with its Python and loop; CPU seconds of each, start included."""
    running = {}
    for name, (python, loop) in runs.items():
        command = [
            *(python, "-m", "launch.torchrun", "--standalone"),
            *("--local-addr", "127.0.0.1", "--nproc-per-node", str(procs)),
            *("-m", "megatron_longrlvr", "train", recipe),
            *(f"trainer.loop={loop}", f"run.dir={dirs[name]}", *overrides),
        ]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
        running[process.pid] = (name, process)
    seconds = {}
    while running:
        pid, status, usage = os.wait3(0)
        name, process = running.pop(pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"the run {name} ended with {process.returncode}")
        seconds[name] = round(usage.ru_utime + usage.ru_stime, 1)
    return seconds


def ask_names(python: Path) -> dict[str, object]:
    """What that environment has: names that are not NeMo's own, and what the loop imports."""
    answer = subprocess.run(
        [python, "-W", "ignore", "-c", ASK_NAMES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, object] = json.loads(answer.stdout.splitlines()[-1])
    return told


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


def num_compared(records: list[MetricRecord]) -> int:
    """Numbers that :func:`differing` looks at."""
    return sum(not name.startswith(NOT_COMPARED) for one in records for name in one.metrics)


def steps(records: list[MetricRecord]) -> list[dict[str, float]]:
    """A few numbers of each training step, in full."""
    return [
        {"step": record.step, **{name: record.metrics[name] for name in TOLD}}
        for record in records
        if record.kind is MetricKind.TRAIN
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
