"""Measure what the context reward does on the toy task, with controls, and write the record.

    python tools/toy_experiment.py --output tests/records/toy_grpo.json
    python tools/toy_experiment.py --only outcome --seeds 0 --dry-run

Every run is ``longrlvr train tiny_cpu`` with a few settings replaced, in one process; --workers
says how many run side by side. A run that is finished in --runs is not repeated. The record
holds, for each run, its settings and all held-out measurements, and for each experiment the mean
over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.metric_log import MetricKind, read_metric_log
from megatron_longrlvr.observability.provenance import record_header

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the record."""

    name: str
    overrides: tuple[str, ...]
    steps: int
    seeds: int
    """Seeds 0, 1, ... of run.seed: other prompts' order and other samples, same start and task."""


# Citations at random, from the first demonstration to the last: one of 16 chunks.
NO_SKILL_STAGES = (
    "[{steps: 800, kinds: [{task: {kind: toy, num_chunks: 16, num_evidence: 4},"
    " citation_accuracy: 0.0625}]}]"
)


def experiments(no_skill_start: Path) -> list[Experiment]:
    """The comparison first, then its controls."""
    rows = [
        Experiment(name="longrlvr", overrides=(), steps=80, seeds=3),
        Experiment(
            name="outcome_only", overrides=("rewards.variant=outcome_only",), steps=80, seeds=3
        ),
        Experiment(
            name="outcome_only_200",
            overrides=("rewards.variant=outcome_only",),
            steps=200,
            seeds=3,
        ),
        Experiment(name="eta0", overrides=("rewards.context.eta=0",), steps=80, seeds=1),
        Experiment(
            name="context_only", overrides=("rewards.variant=context_only",), steps=80, seeds=1
        ),
    ]
    for g in (1, 2, 3):
        evidence = (f"data.train.num_evidence={g}", f"evaluation.data.num_evidence={g}")
        rows.append(Experiment(name=f"longrlvr_g{g}", overrides=evidence, steps=80, seeds=1))
        rows.append(
            Experiment(
                name=f"outcome_only_g{g}",
                overrides=(*evidence, "rewards.variant=outcome_only"),
                steps=80,
                seeds=1,
            )
        )
    for variant in ("longrlvr", "outcome_only"):
        rows.append(
            Experiment(
                name=f"{variant}_no_skill",
                overrides=(f"model.path={no_skill_start}", f"rewards.variant={variant}"),
                steps=80,
                seeds=1,
            )
        )
    return rows


def command(experiment: Experiment, seed: int, run_dir: Path) -> list[str]:
    """Command line of one run."""
    return [
        sys.executable,
        "-m",
        "megatron_longrlvr",
        "train",
        "tiny_cpu",
        f"run.name={experiment.name}-{seed}",
        f"run.dir={run_dir}",
        f"run.seed={seed}",
        f"trainer.steps={experiment.steps}",
        "trainer.eval_every=20",
        "trainer.save_every=0",
        "trainer.sample_every=0",
        "trainer.tensorboard=false",
        "evaluation.num_prompts=512",
        *experiment.overrides,
    ]


def make_no_skill_start(runs: Path) -> None:
    """A start that writes the format and cites at random, for the no-skill controls."""
    stages = f"demonstrations.stages={NO_SKILL_STAGES}"
    train = [sys.executable, "-m", "megatron_longrlvr", "sft", "toy_sft_short"]
    call([*train, f"run.dir={runs / 'no_skill_start'}", stages])


def call(arguments: list[str]) -> None:
    """Run a command on one thread; its words go into the error if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-1500:]
        raise RuntimeError(f"{' '.join(arguments)}: {said}")


def run(experiment: Experiment, seed: int, runs: Path) -> dict[str, Any]:
    """Train, unless it was done before, and read the held-out curve."""
    run_dir = runs / f"{experiment.name}-{seed}"
    call(command(experiment, seed, run_dir))
    curve = [
        {
            "step": record.step,
            "f2": record.metrics[names.EVAL_CONTEXT_F_BETA_MEAN],
            "recall": record.metrics[names.EVAL_CONTEXT_RECALL_MEAN],
            "answer": record.metrics[names.EVAL_ANSWER_MEAN],
        }
        for record in read_metric_log(run_dir / "metrics.jsonl")
        if record.kind is MetricKind.EVAL
    ]
    print(f"{experiment.name:22} seed {seed}: {curve[-1]}", flush=True)
    return {"experiment": experiment.name, "seed": seed, "held_out": curve}


def measure_start(runs: Path) -> dict[str, Any]:
    """Held-out scores of the shipped start, sampled and greedy."""
    scores = {}
    for temperature in (1.0, 0.0):
        path = runs / f"start_{temperature:g}.json"
        evaluate = [sys.executable, "-m", "megatron_longrlvr", "evaluate", "tiny_cpu"]
        evaluate += [f"evaluation.temperature={temperature}", "evaluation.num_prompts=512"]
        call([*evaluate, "--json", str(path)])
        metrics = json.loads(path.read_text())
        scores[f"temperature {temperature:g}"] = {
            "f2": metrics[names.EVAL_CONTEXT_F_BETA_MEAN],
            "answer": metrics[names.EVAL_ANSWER_MEAN],
        }
    return scores


def summarize(rows: list[Experiment], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Start, end, and mean over seeds of each experiment."""
    table = []
    for row in rows:
        curves = [one["held_out"] for one in results if one["experiment"] == row.name]
        if not curves:
            continue
        table.append(
            {
                "experiment": row.name,
                "overrides": list(row.overrides),
                "steps": row.steps,
                "seeds": len(curves),
                "start_f2": statistics.mean(curve[0]["f2"] for curve in curves),
                "start_answer": statistics.mean(curve[0]["answer"] for curve in curves),
                "end_f2": statistics.mean(curve[-1]["f2"] for curve in curves),
                "end_answer": statistics.mean(curve[-1]["answer"] for curve in curves),
            }
        )
    return table


def main() -> None:
    """Run what is asked for and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "tests/records/toy_grpo.json")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/toy_experiment")
    parser.add_argument("--only", nargs="*", help="names of experiments; default all")
    parser.add_argument("--seeds", type=int, help="at most so many seeds of each")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    arguments = parser.parse_args()
    runs = arguments.runs.absolute()
    rows = [
        row
        for row in experiments(runs / "no_skill_start" / "hf")
        if not arguments.only or row.name in arguments.only
    ]
    jobs = [(row, seed) for row in rows for seed in range(min(row.seeds, arguments.seeds or 99))]
    if arguments.dry_run:
        for row, seed in jobs:
            print(" ".join(command(row, seed, runs / f"{row.name}-{seed}")))
        return
    if any("no_skill" in row.name for row in rows) and not (runs / "no_skill_start/hf").exists():
        make_no_skill_start(runs)
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = list(pool.map(lambda job: run(*job, runs), jobs))
    record = {
        **record_header(
            "held-out scores of GRPO on the toy task (recipe tiny_cpu), 512 prompts, T = 1",
            note=f"one thread a run, {arguments.workers} at a time",
        ),
        "start": measure_start(runs),
        "summary": summarize(rows, results),
        "runs": results,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
