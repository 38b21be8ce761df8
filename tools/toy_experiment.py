"""Measure what the context reward does on the toy task, with controls, and write the record.

    python tools/toy_experiment.py
    python tools/toy_experiment.py --recipe tiny_ppo_cpu
    python tools/toy_experiment.py --only outcome_only --seeds 1 --dry-run

Every run is ``longrlvr train`` of a recipe, GRPO's unless another is named, with a few settings
replaced, in one process; --workers says how many run side by side. A run that is finished in
--runs is not repeated. The record holds, for each run, its settings and all held-out measurements,
with a critic how well it foresaw the returns, and for each experiment the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.metric_log import (
    MetricKind,
    MetricRecord,
    read_metric_log,
)
from megatron_longrlvr.observability.provenance import record_header

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One row of the record."""

    name: str
    recipe: str = "tiny_cpu"
    overrides: tuple[str, ...] = ()
    steps: int = 80
    seeds: int = 3
    """Seeds 0, 1, ... of run.seed: other prompts' order and other samples, same start and task."""


CRITIC_STEPS = 10
CRITIC_METRICS = {
    "explained_variance": names.CRITIC_EXPLAINED_VARIANCE,
    "value_loss": names.CRITIC_LOSS,
    "square_error": names.CRITIC_SQUARE_ERROR_MEAN,
}

# Citations at random, from the first demonstration to the last: one of 16 chunks.
NO_SKILL_STAGES = (
    "[{steps: 800, kinds: [{task: {kind: toy, num_chunks: 16, num_evidence: 4},"
    " citation_accuracy: 0.0625}]}]"
)


RECORDS = {"tiny_cpu": "toy_grpo.json", "tiny_ppo_cpu": "toy_ppo.json"}
"""Where the experiments with a recipe are written, under tests/records."""


def experiments(recipe: str, no_skill_start: Path) -> list[Experiment]:
    """Those with a recipe: the comparison first, then its controls."""
    return ppo_experiments() if recipe == "tiny_ppo_cpu" else grpo_experiments(no_skill_start)


def ppo_experiments() -> list[Experiment]:
    """PPO with a critic, and without the context reward."""
    return [
        Experiment(name="ppo", recipe="tiny_ppo_cpu"),
        Experiment(
            name="ppo_outcome_only",
            recipe="tiny_ppo_cpu",
            overrides=("rewards.variant=outcome_only",),
        ),
    ]


def grpo_experiments(no_skill_start: Path) -> list[Experiment]:
    """The paper's comparison, and what the context reward does apart from it."""
    rows = [
        Experiment(name="longrlvr"),
        Experiment(name="outcome_only", overrides=("rewards.variant=outcome_only",)),
        Experiment(name="outcome_only_200", overrides=("rewards.variant=outcome_only",), steps=200),
        Experiment(name="eta0", overrides=("rewards.context.eta=0",), seeds=1),
        Experiment(name="context_only", overrides=("rewards.variant=context_only",), seeds=1),
    ]
    for g in (1, 2, 3):
        evidence = (f"data.train.num_evidence={g}", f"evaluation.data.num_evidence={g}")
        rows.append(Experiment(name=f"longrlvr_g{g}", overrides=evidence, seeds=1))
        rows.append(
            Experiment(
                name=f"outcome_only_g{g}",
                overrides=(*evidence, "rewards.variant=outcome_only"),
                seeds=1,
            )
        )
    for variant in ("longrlvr", "outcome_only"):
        rows.append(
            Experiment(
                name=f"{variant}_no_skill",
                overrides=(f"model.path={no_skill_start}", f"rewards.variant={variant}"),
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
        experiment.recipe,
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
    """Train, unless it was done before, and read the curves."""
    run_dir = runs / f"{experiment.name}-{seed}"
    call(command(experiment, seed, run_dir))
    records = list(read_metric_log(run_dir / "metrics.jsonl"))
    curve = [
        {
            "step": record.step,
            "f2": record.metrics[names.EVAL_CONTEXT_F_BETA_MEAN],
            "recall": record.metrics[names.EVAL_CONTEXT_RECALL_MEAN],
            "answer": record.metrics[names.EVAL_ANSWER_MEAN],
        }
        for record in records
        if record.kind is MetricKind.EVAL
    ]
    foreseen = critic_curve([one for one in records if one.kind is MetricKind.TRAIN])
    print(f"{experiment.name:22} seed {seed}: {curve[-1]} {foreseen[-1:]}", flush=True)
    critic = {"critic": foreseen} if foreseen else {}
    return {"experiment": experiment.name, "seed": seed, "held_out": curve, **critic}


def critic_curve(steps: Sequence[MetricRecord]) -> list[dict[str, float]]:
    """Means over every CRITIC_STEPS training steps, of what they say; empty without a critic."""
    if names.CRITIC_LOSS not in steps[-1].metrics:
        return []
    curve = []
    for i in range(0, len(steps), CRITIC_STEPS):
        span = steps[i : i + CRITIC_STEPS]
        point: dict[str, float] = {"last_step": span[-1].step}
        for own, name in CRITIC_METRICS.items():
            said = [one.metrics[name] for one in span if name in one.metrics]
            if said:
                point[own] = statistics.mean(said)
        curve.append(point)
    return curve


def measure_start(recipe: str, runs: Path) -> dict[str, Any]:
    """Held-out scores of the shipped start, sampled and greedy."""
    scores = {}
    for temperature in (1.0, 0.0):
        path = runs / f"start_{temperature:g}.json"
        evaluate = [sys.executable, "-m", "megatron_longrlvr", "evaluate", recipe]
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
    parser.add_argument("--recipe", choices=RECORDS, default="tiny_cpu")
    parser.add_argument("--output", type=Path, help="default: the recipe's in tests/records")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/toy_experiment")
    parser.add_argument("--only", nargs="*", help="names of experiments; default all")
    parser.add_argument("--seeds", type=int, help="at most so many seeds of each")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    arguments = parser.parse_args()
    runs = arguments.runs.absolute()
    rows = [
        row
        for row in experiments(arguments.recipe, runs / "no_skill_start" / "hf")
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
            f"held-out scores on the toy task (recipe {arguments.recipe}), 512 prompts, T = 1",
            note=f"one thread a run, {arguments.workers} at a time",
        ),
        "start": measure_start(arguments.recipe, runs),
        "summary": summarize(rows, results),
        "runs": results,
    }
    output = arguments.output or ROOT / "tests/records" / RECORDS[arguments.recipe]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
