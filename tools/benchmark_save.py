"""Measure for how long saving a checkpoint keeps training waiting, in the background and not.

    python tools/benchmark_save.py --output tests/records/save.json
    python tools/benchmark_save.py --model tiny --shape 512,64,8 --rounds 1

One learner takes AdamW steps and is saved with its optimizer, in turns: a step without a save
before it; a step after a save that was waited for; steps after a save in the background, until it
is complete. What counts is what the loop of a run would wait (``timing/save_blocked_s``), as a
share of the first kind of step. A step here is an update of one group and nothing else; a run's
also samples and judges, so its share is smaller. How much longer steps take under a background save
is told as well. Random weights of the model's sizes; fp32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "update_workers")]

import torch  # noqa: E402
from ours import build, packed  # noqa: E402
from shapes import Shape  # noqa: E402

from megatron_longrlvr.checkpoint.manifest import latest  # noqa: E402
from megatron_longrlvr.checkpoint.run_state import RunState  # noqa: E402
from megatron_longrlvr.config.training import AlgorithmConfig, TrainerConfig  # noqa: E402
from megatron_longrlvr.model.learner import Learner  # noqa: E402
from megatron_longrlvr.observability.provenance import record_header  # noqa: E402
from megatron_longrlvr.stages import TrainBatch  # noqa: E402
from megatron_longrlvr.trainer.saving import Saver  # noqa: E402

MAX_STEPS = 50
"""A save in the background that takes more steps than this counts as lost."""


class Run:
    """A run of nothing but updates and saves."""

    def __init__(self, learner: Learner, batch: TrainBatch, folder: Path) -> None:
        self._learner, self._batch, self._folder = learner, batch, folder
        self._config = AlgorithmConfig(proximal="behavior", micro_batch_tokens=10**9)

    def step(self) -> float:
        """Seconds of an update."""
        start = time.perf_counter()
        self._learner.update(self._batch, self._config)
        return time.perf_counter() - start

    def save(self, *, in_background: bool) -> dict[str, float]:
        """Save, and train until the checkpoint is complete; seconds of each."""
        trainer = TrainerConfig(steps=10**6, keep_checkpoints=1, async_save=in_background)
        saver = Saver(self._folder, self._learner, trainer, fingerprint="")
        version = self._learner.version
        state = RunState(step=version, policy_version=version, prompt_cursor=0)
        start = time.perf_counter()
        saver.save(state)
        begin_s = saver.take_blocked_s()
        steps: list[float] = []
        while not steps or saver.is_busy:
            assert len(steps) < MAX_STEPS, f"not saved after {MAX_STEPS} steps"
            steps.append(self.step())
            saver.poll()
        end_s = saver.take_blocked_s()
        return {
            "begin_s": begin_s,
            "end_s": end_s,
            "blocked_s": begin_s + end_s,
            "step_s": statistics.mean(steps),
            "num_steps": len(steps),
            "total_s": time.perf_counter() - start,
        }

    @property
    def saved_gib(self) -> float:
        """Size of the newest checkpoint."""
        checkpoint = latest(self._folder)
        assert checkpoint is not None, "nothing is saved yet"
        return sum(checkpoint.manifest.bytes_by_file.values()) / 2**30


def measure(model: str, shape: Shape, *, rounds: int, folder: Path) -> dict[str, Any]:
    """Medians over rounds."""
    learner = build(model, shape.prompt + shape.response)
    config = AlgorithmConfig(proximal="behavior", micro_batch_tokens=10**9)
    update = packed(shape, learner.policy.spec.vocab_size, config)
    run = Run(learner, learner.add_logprobs(update, config), folder)
    run.step()  # the optimizer's state comes to be
    run.save(in_background=False)  # later saves replace one, as those of a run do
    turns = []
    for _ in range(rounds):
        plain_s = run.step()
        turns.append(
            {
                "plain": {"step_s": plain_s},
                "waited_for": run.save(in_background=False),
                "background": run.save(in_background=True),
            }
        )
        print(json.dumps(turns[-1]), flush=True)
    step_s = statistics.median(turn["plain"]["step_s"] for turn in turns)
    return {
        "saved_gib": round(run.saved_gib, 3),
        "seconds": {
            kind: {
                name: round(statistics.median(turn[kind][name] for turn in turns), 3)
                for name in turns[0][kind]
            }
            for kind in turns[0]
        },
        "blocked_share_of_step": {
            kind: _spread([turn[kind]["blocked_s"] / step_s for turn in turns])
            for kind in ("waited_for", "background")
        },
        "step_under_background_save_over_plain": _spread(
            [turn["background"]["step_s"] / turn["plain"]["step_s"] for turn in turns]
        ),
        "rounds": turns,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="write the measurement here")
    parser.add_argument("--model", default="smollm2-135m", choices=("tiny", "smollm2-135m"))
    parser.add_argument("--shape", default="512,32,8", help="prompt,response,group of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the learner")
    parser.add_argument("--folder", type=Path, help="on the disk to save to; default: temporary")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = Shape(*map(int, arguments.shape.split(",")))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measured = measure(arguments.model, shape, rounds=arguments.rounds, folder=Path(folder))
    record = {
        **record_header(
            "seconds for which training waits for checkpoints of weights and optimizer, and of a "
            "step (an update of one group); medians over rounds, in which the kinds take turns",
            note=f"one process, {arguments.threads} thread(s); the writers are further processes",
        ),
        "model": arguments.model,
        "shape": arguments.shape,
        **measured,
    }
    print(json.dumps(record, indent=1))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
