"""Run directories with a few numbers that tests know by heart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_longrlvr.observability import names
from megatron_longrlvr.observability.metric_log import MetricKind, MetricLog, MetricRecord
from megatron_longrlvr.observability.samples import samples_path, write_samples
from megatron_longrlvr.stages import ScoredSample

CONFIG = {
    "kind": "train",
    "run": {"name": "toy", "dir": "runs/toy", "seed": 0},
    "model": {"path": "models/start", "new": None},
    "rewards": {"variant": "longrlvr", "context": {"beta": 2.0, "eta": 0.1}},
    "rollout": {"stop": []},
    "trainer": {"steps": 40},
}


def make_run(
    run_dir: Path,
    *,
    config: Mapping[str, object] = CONFIG,
    train: Mapping[int, Mapping[str, float]] | None = None,
    heldout: Mapping[int, Mapping[str, float]] | None = None,
    samples: Mapping[int, Sequence[ScoredSample]] | None = None,
) -> Path:
    run_dir.mkdir(parents=True)
    (run_dir / "config.json").write_text(json.dumps(config))
    log = MetricLog(run_dir / "metrics.jsonl")
    for kind, by_step in ((MetricKind.TRAIN, train or {}), (MetricKind.EVAL, heldout or {})):
        for step, metrics in by_step.items():
            log.append(MetricRecord(step=step, kind=kind, metrics=metrics))
    log.close()
    for step, scored in (samples or {}).items():
        write_samples(samples_path(run_dir, step), scored, step=step)
    return run_dir


def renamed(name: str, **rewards: object) -> dict[str, object]:
    return {
        **CONFIG,
        "run": {**CONFIG["run"], "name": name},
        "rewards": {**CONFIG["rewards"], **rewards},
    }


def f_beta(value: float, stderr: float | None = None) -> dict[str, float]:
    spread = {} if stderr is None else {names.EVAL_CONTEXT_F_BETA_STDERR: stderr}
    return {names.EVAL_CONTEXT_F_BETA_MEAN: value, **spread}
